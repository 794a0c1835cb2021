//! `Policies`: when, how and with whose consent updates are installed.

use std::sync::Arc;

use tierway_common::id::{GroupId, RingPlanId, TemplateId};
use tierway_proto::v1::{self, policies_server};
use tonic::{Request, Response, Status};

use super::{
    ToStatus,
    admin::{conditions, parse, parse_optional},
    blocking,
    gate::Gate,
    millis,
};
use crate::{
    decide::{
        DecideError, PATCHES_AT_ONCE_MAX,
        documents::{self, DOCUMENTS_AT_ONCE_MAX, Outcome},
        rollouts::{self, RingMember, RingStanding, Standing},
        templates::{self, Difference},
        trust::{self, Untrusted},
    },
    fleet,
    model::Model,
    policy::{
        documents::{Document, Kind},
        gates::Hand,
    },
    server::Central,
    store::tables::TemplateRecord,
};

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct PoliciesService {
    central: Arc<Central>,
    gate: Gate,
}

impl PoliciesService {
    /// On the given central.
    #[must_use]
    pub fn new(central: Arc<Central>, gate: Gate) -> Self {
        Self { central, gate }
    }

    async fn change(
        &self,
        work: impl FnOnce(&Central) -> Result<u64, DecideError> + Send + 'static,
    ) -> Result<Response<v1::Change>, Status> {
        let audit_sequence = blocking(&self.central, work).await?;
        self.central.rollouts.wake();
        Ok(Response::new(v1::Change { audit_sequence }))
    }
}

fn kind(text: &str) -> Result<Kind, Status> {
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| {
        let names = Kind::ALL.map(Kind::as_str).join(", ");
        Status::invalid_argument(format!("`kind` must be one of {names}, found `{text}`"))
    })
}

fn read(policy: &v1::NewPolicy) -> Result<Document, Status> {
    let v1::NewPolicy { kind: of, json } = policy;
    let kind = kind(of)?;
    Document::read(kind, json)
        .map_err(|error| Status::invalid_argument(format!("the {kind} is refused: {error}")))
}

fn policy(model: &Model, document: &Document) -> Result<v1::Policy, Status> {
    let json = document.json().map_err(|error| Status::internal(error.to_string()))?;
    Ok(v1::Policy {
        kind: document.kind().as_str().to_owned(),
        name: document.name(),
        json,
        used_by: model.policy().user_of(document).unwrap_or_default(),
    })
}

fn outcome(document: &Document, outcome: Outcome) -> v1::PolicyOutcome {
    v1::PolicyOutcome {
        kind: document.kind().as_str().to_owned(),
        name: document.name(),
        outcome: outcome.as_str().to_owned(),
    }
}

fn rollout(standing: Standing) -> v1::Rollout {
    let Standing { record, rings, waits } = standing;
    let rollout = record.rollout;
    let open = rollout.open as usize;
    v1::Rollout {
        plan: rollout.plan.to_string(),
        patch: rollout.update.to_string(),
        stage: rollouts::stage_name(rollout.stage).to_owned(),
        ring: rings.get(open).map(|ring| ring.name.clone()).unwrap_or_default(),
        since: millis(Some(rollout.since)),
        detail: rollout.detail,
        waits,
        rings: rings
            .into_iter()
            .enumerate()
            .map(|(at, RingStanding { name, endpoints, counts })| v1::RolloutRing {
                name,
                open: at <= open,
                endpoints,
                applicable: counts.members,
                successes: counts.successes,
                failures: counts.failures,
            })
            .collect(),
    }
}

fn ring_member(member: RingMember) -> v1::RingMember {
    let RingMember { endpoint, ring, stand } = member;
    v1::RingMember {
        endpoint: endpoint.id.to_string(),
        name: endpoint.name.clone(),
        site: endpoint.site.to_string(),
        ring,
        place: stand.place,
        why: stand.to_string(),
    }
}

fn untrusted(row: Untrusted) -> v1::UntrustedPatch {
    let Untrusted { update, counts, waits } = row;
    v1::UntrustedPatch {
        patch: update.to_string(),
        applicable: counts.members,
        successes: counts.successes,
        failures: counts.failures,
        waits,
    }
}

fn template(model: &Model, record: &TemplateRecord) -> v1::Template {
    let patches = templates::updates(model, record).len() as u64;
    let TemplateRecord { id, endpoint, endpoint_name, at, by, updates: _ } = record.clone();
    v1::Template {
        name: id.to_string(),
        endpoint: endpoint.to_string(),
        endpoint_name,
        at: millis(Some(at)),
        by,
        patches,
    }
}

fn hand(verb: &str) -> Result<Hand, Status> {
    match verb {
        "pause" => Ok(Hand::Pause),
        "resume" => Ok(Hand::Resume),
        "abort" => Ok(Hand::Abort),
        "promote" => Ok(Hand::Promote),
        _ => {
            let found = format!("`verb` must be pause, resume, abort or promote, found `{verb}`");
            Err(Status::invalid_argument(found))
        }
    }
}

#[tonic::async_trait]
impl policies_server::Policies for PoliciesService {
    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListPoliciesRequest { kind: of } = request.into_inner();
        let kinds = match of {
            Some(of) => vec![kind(&of)?],
            None => Kind::ALL.to_vec(),
        };
        let model = self.central.state.model();
        let documents = kinds.into_iter().flat_map(|kind| model.policy().documents().of(kind));
        let policies = documents.map(|document| policy(&model, document)).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListPoliciesResponse { policies }))
    }

    async fn set_policies(
        &self,
        request: Request<v1::SetPoliciesRequest>,
    ) -> Result<Response<v1::SetPoliciesResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::SetPoliciesRequest { policies, dry_run } = request.into_inner();
        if policies.is_empty() || policies.len() > DOCUMENTS_AT_ONCE_MAX {
            return Err(Status::invalid_argument("give 1 to 1,000 policies"));
        }
        let documents = policies.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let (documents, outcomes, audit_sequence) = blocking(&self.central, move |central| {
            let (outcomes, sequence) = if dry_run {
                let now = central.state.now();
                (documents::try_out(&central.state.model(), &documents, now)?, 0)
            } else {
                documents::set(&central.state, &documents, &actor)?
            };
            Ok::<_, DecideError>((documents, outcomes, sequence))
        })
        .await?;
        self.central.rollouts.wake();
        let outcomes = documents.iter().zip(outcomes).map(|(document, done)| outcome(document, done));
        Ok(Response::new(v1::SetPoliciesResponse { audit_sequence, outcomes: outcomes.collect() }))
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::DeletePolicyRequest { kind: of, name } = request.into_inner();
        let kind = kind(&of)?;
        self.change(move |central| documents::delete(&central.state, kind, &name, &actor)).await
    }

    async fn list_ring_members(
        &self,
        request: Request<v1::ListRingMembersRequest>,
    ) -> Result<Response<v1::ListRingMembersResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListRingMembersRequest { plan, ring, limit, after } = request.into_inner();
        let plan = parse::<RingPlanId>(&plan)?;
        let after = match after.as_str() {
            "" => None,
            number => Some(
                number.parse().map_err(|_| Status::invalid_argument("`after` is no place in the list"))?,
            ),
        };
        let (members, next) = blocking(&self.central, move |central| {
            rollouts::members(&central.state.model(), &plan, ring.as_deref(), after, fleet::limit(limit))
        })
        .await?;
        let members = members.into_iter().map(ring_member).collect();
        let next = next.map(|number| number.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ListRingMembersResponse { members, next }))
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListRolloutsRequest { plan } = request.into_inner();
        let plan: Option<RingPlanId> = parse_optional(plan.as_ref())?;
        let standings = blocking(&self.central, move |central| {
            Ok::<_, DecideError>(rollouts::list(&central.state, plan.as_ref()))
        })
        .await?;
        let rollouts = standings.into_iter().map(rollout).collect();
        Ok(Response::new(v1::ListRolloutsResponse { rollouts }))
    }

    async fn control_rollout(
        &self,
        request: Request<v1::ControlRolloutRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::ControlRolloutRequest { plan, patch, verb } = request.into_inner();
        let (plan, hand) = (parse::<RingPlanId>(&plan)?, hand(&verb)?);
        self.change(move |central| {
            let update = fleet::update(&central.state.model(), &patch)?.id.clone();
            rollouts::control(&central.state, &plan, &update, hand, &actor)
        })
        .await
    }

    async fn list_untrusted(
        &self,
        request: Request<v1::ListUntrustedRequest>,
    ) -> Result<Response<v1::ListUntrustedResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListUntrustedRequest {} = request.into_inner();
        let (rows, testers, trusted) = blocking(&self.central, |central| {
            let rows = trust::list(&central.state)?;
            let model = central.state.model();
            let trusted = model.policy().trusted().len() as u64;
            Ok::<_, DecideError>((rows, trust::testers(&model).len(), trusted))
        })
        .await?;
        let patches = rows.into_iter().map(untrusted).collect();
        Ok(Response::new(v1::ListUntrustedResponse { patches, testers, trusted }))
    }

    async fn trust_patches(
        &self,
        request: Request<v1::TrustPatchesRequest>,
    ) -> Result<Response<v1::TrustPatchesResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::TrustPatchesRequest { patches } = request.into_inner();
        if patches.is_empty() || patches.len() > PATCHES_AT_ONCE_MAX {
            return Err(Status::invalid_argument("give the names of 1 to 5,000 patches"));
        }
        let (trusted, audit_sequence) =
            blocking(&self.central, move |central| trust::promote(&central.state, &patches, &actor)).await?;
        let patches = trusted.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::TrustPatchesResponse { audit_sequence, patches }))
    }

    async fn capture_template(
        &self,
        request: Request<v1::CaptureTemplateRequest>,
    ) -> Result<Response<v1::CaptureTemplateResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::CaptureTemplateRequest { name, endpoint } = request.into_inner();
        let id = parse::<TemplateId>(&name)?;
        let (patches, audit_sequence) = blocking(&self.central, move |central| {
            templates::capture(&central.state, &id, &endpoint, &actor)
        })
        .await?;
        Ok(Response::new(v1::CaptureTemplateResponse { audit_sequence, patches: patches as u64 }))
    }

    async fn list_templates(
        &self,
        request: Request<v1::ListTemplatesRequest>,
    ) -> Result<Response<v1::ListTemplatesResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListTemplatesRequest {} = request.into_inner();
        let model = self.central.state.model();
        let templates = model.policy().templates().values().map(|record| template(&model, record)).collect();
        Ok(Response::new(v1::ListTemplatesResponse { templates }))
    }

    async fn get_template(
        &self,
        request: Request<v1::GetTemplateRequest>,
    ) -> Result<Response<v1::TemplateDetail>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::GetTemplateRequest { name } = request.into_inner();
        let id = parse::<TemplateId>(&name)?;
        let model = self.central.state.model();
        let record = templates::get(&model, &id).map_err(|error| error.to_status())?;
        let patches = templates::updates(&model, record).iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::TemplateDetail { template: Some(template(&model, record)), patches }))
    }

    async fn diff_template(
        &self,
        request: Request<v1::DiffTemplateRequest>,
    ) -> Result<Response<v1::DiffTemplateResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::DiffTemplateRequest { name, endpoint } = request.into_inner();
        let id = parse::<TemplateId>(&name)?;
        let differences =
            blocking(&self.central, move |central| templates::diff(&central.state, &id, &endpoint)).await?;
        let difference = |Difference { update, in_template, on_endpoint }| v1::TemplateDifference {
            patch: update.to_string(),
            in_template,
            on_endpoint: on_endpoint.as_str().to_owned(),
        };
        let differences = differences.into_iter().map(difference).collect();
        Ok(Response::new(v1::DiffTemplateResponse { differences }))
    }

    async fn apply_template(
        &self,
        request: Request<v1::ApplyTemplateRequest>,
    ) -> Result<Response<v1::DecidePatchesResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::ApplyTemplateRequest { name, group, rings, passed_on, successes } = request.into_inner();
        let (id, group) = (parse::<TemplateId>(&name)?, parse::<GroupId>(&group)?);
        let conditions = conditions(rings.as_ref(), passed_on.as_ref(), successes)?;
        let (changed, audit_sequence) = blocking(&self.central, move |central| {
            templates::apply(&central.state, &id, &group, &conditions, &actor)
        })
        .await?;
        let patches = changed.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::DecidePatchesResponse { audit_sequence, patches }))
    }

    async fn delete_template(
        &self,
        request: Request<v1::DeleteTemplateRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::DeleteTemplateRequest { name } = request.into_inner();
        let id = parse::<TemplateId>(&name)?;
        self.change(move |central| templates::delete(&central.state, &id, &actor)).await
    }
}
