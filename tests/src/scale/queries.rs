//! What people ask of central while the fleet is there, timed as they wait for it.

use std::time::Instant;

use tierway_proto::v1;

use super::{
    failure::{Failure, failed},
    figures::Kind,
    fleet::Fleet,
};

/// Asks each question as often as the options say, in turn.
///
/// # Errors
///
/// [`Failure`] when central does not answer.
pub async fn ask(fleet: &mut Fleet) -> Result<(), Failure> {
    let begun = fleet.begin();
    let (mut admin, figures) = (fleet.tiers.admin(), fleet.figures.clone());
    let patch = fleet.lists[&super::inventory::System::Debian].update(0, 1);
    let mut rows = 0;
    for number in 0..fleet.options.queries {
        let began = Instant::now();
        admin.get_status(v1::GetStatusRequest::default()).await.map_err(failed("ask for the status"))?;
        figures.took(Kind::Status, began.elapsed());
        let member = &fleet.members[number as usize * 7 % fleet.members.len()];
        let began = Instant::now();
        let request = v1::GetEndpointRequest { name_or_id: member.name.clone() };
        admin.get_endpoint(request).await.map_err(failed("ask for an endpoint"))?;
        figures.took(Kind::EndpointShow, began.elapsed());
        let began = Instant::now();
        let request = v1::ListPatchEndpointsRequest { patch: patch.clone(), ..Default::default() };
        let answer = admin.list_patch_endpoints(request).await.map_err(failed("ask for a patch"))?;
        figures.took(Kind::PatchEndpoints, began.elapsed());
        rows += answer.into_inner().endpoints.len();
    }
    let mut phase = fleet.ended("questions", begun);
    let seconds = phase.times.get(Kind::PatchEndpoints.name()).map_or(0.0, |times| times.p50_ms / 1_000.0);
    let rows = rows as f64 / f64::from(fleet.options.queries.max(1));
    phase.more.insert("rows of `patch endpoints`", rows);
    phase.more.insert("rows per second, at the median", rows / seconds.max(1e-6));
    fleet.push(phase);
    Ok(())
}
