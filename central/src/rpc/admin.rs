//! `Admin`: what `tierctl` and the console ask.

mod convert;
mod lists;
mod progress;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use http::Extensions;
use jiff::civil::Time;
use tierway_common::{
    id::{GroupId, LevelId, SiteId, SourceId, TagId},
    rules::expr::Expr,
    schema::Members,
    transport::identity::Role,
};
use tierway_proto::v1::{self, admin_server};
use tonic::{Request, Response, Status};

use self::{
    convert::{call, patch, relay, times},
    lists::{endpoints_part, parts, patch_endpoints_part, wanted_endpoints, wanted_patch_endpoints},
};
use super::{ToStatus, blocking, gate::Gate, millis, millis_of_seconds};
use crate::{
    audit, calls,
    decide::{
        self, About, Conditions, PATCHES_AT_ONCE_MAX, PassedOn, Verb,
        groups::{self, Membership},
    },
    enroll::NewToken,
    fleet::{
        self, AskError, endpoints,
        patches::{self, PatchFilter, Standing},
        status::{self, Filter},
        times::{self, By},
        why,
    },
    leases,
    model::Model,
    plan,
    server::Central,
    sources::payloads::Which,
    store::tables::AutoApprovalRecord,
};

/// Names in one request.
const NAMES_MAX: usize = 5_000;

/// An answer that comes bit by bit.
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminService {
    central: Arc<Central>,
    gate: Gate,
}

impl AdminService {
    /// On the given central.
    #[must_use]
    pub fn new(central: Arc<Central>, gate: Gate) -> Self {
        Self { central, gate }
    }

    async fn change<E: ToStatus + Send + 'static>(
        &self,
        work: impl FnOnce(&Central) -> Result<u64, E> + Send + 'static,
    ) -> Result<Response<v1::Change>, Status> {
        let audit_sequence = blocking(&self.central, work).await?;
        Ok(Response::new(v1::Change { audit_sequence }))
    }

    /// Streams a list of which `part` gives a part and what to ask for the next, for as long as the caller is an operator.
    fn parts<A: Send + 'static, T: Send + 'static>(
        &self,
        caller: Extensions,
        first: A,
        part: fn(&Central, A) -> Result<(T, Option<A>), AskError>,
    ) -> Streamed<T> {
        let (central, gate, caller) = (self.central.clone(), self.gate.clone(), Arc::new(caller));
        parts(first, move |asked| {
            let (central, allowed) = (central.clone(), gate.operator(&caller));
            async move {
                allowed?;
                blocking(&central, move |central| part(central, asked)).await
            }
        })
    }

    /// Shuts out the one whose id is found.
    async fn revoke(
        &self,
        actor: String,
        reason: String,
        find: impl FnOnce(&Model) -> Result<String, AskError> + Send + 'static,
    ) -> Result<Response<v1::Change>, Status> {
        self.change(move |central| {
            let id = find(&central.state.model()).map_err(|error| error.to_status())?;
            central.enrollment.revoke(&id, &reason, &actor).map_err(|error| error.to_status())
        })
        .await
    }
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

pub(super) fn parse_optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: Option<&String>,
) -> Result<Option<T>, Status> {
    text.map(|text| parse(text)).transpose()
}

/// How an approval is meant, as requests say it.
pub(super) fn conditions(
    rings: Option<&String>,
    passed_on: Option<&String>,
    successes: u32,
) -> Result<Conditions, Status> {
    let passed_on = parse_optional(passed_on)?;
    let passed_on = passed_on.map(|group| PassedOn { group, successes: successes.max(1) });
    Ok(Conditions { rings: parse_optional(rings)?, passed_on })
}

/// Text that says nothing when it is empty.
fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn filter(
    site: Option<&String>,
    group: Option<&String>,
    severity: Option<&String>,
) -> Result<Filter, Status> {
    Ok(Filter {
        site: parse_optional(site)?,
        group: parse_optional(group)?,
        severity: severity.map(|text| fleet::severity(text)).transpose().map_err(|e| e.to_status())?,
    })
}

fn which(text: &str) -> Result<Which, Status> {
    match text {
        "needed" => Ok(Which::Needed),
        "approved" => Ok(Which::Approved),
        "all" => Ok(Which::All),
        _ => Err(Status::invalid_argument(format!("`what` must be needed, approved or all, found `{text}`"))),
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::FleetStatus>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::GetStatusRequest { site, group, severity } = request.into_inner();
        let filter = filter(site.as_ref(), group.as_ref(), severity.as_ref())?;
        let status = blocking(&self.central, move |central| {
            status::status(&central.state.model(), &filter, central.state.now())
        })
        .await?;
        let published = self.central.publisher.published();
        let signed = millis(published.signed.or(published.changed));
        Ok(Response::new(convert::status(status, published.timestamp_version, signed)))
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::WhyRequest { endpoint, patch } = request.into_inner();
        let why = blocking(&self.central, move |central| {
            why::why(&central.state, &central.trees, &endpoint, &patch)
        })
        .await?;
        Ok(Response::new(convert::why(why)))
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let wanted = wanted_endpoints(request.into_inner())?;
        let (answer, _) = blocking(&self.central, move |central| endpoints_part(central, wanted)).await?;
        Ok(Response::new(answer))
    }

    type StreamEndpointsStream = Streamed<v1::ListEndpointsResponse>;

    async fn stream_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<Self::StreamEndpointsStream>, Status> {
        self.gate.operator(request.extensions())?;
        let (_, caller, request) = request.into_parts();
        let wanted = wanted_endpoints(request)?;
        Ok(Response::new(self.parts(caller, wanted, endpoints_part)))
    }

    async fn get_endpoint(
        &self,
        request: Request<v1::GetEndpointRequest>,
    ) -> Result<Response<v1::EndpointDetail>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::GetEndpointRequest { name_or_id } = request.into_inner();
        let (row, patches, settings) = blocking(&self.central, move |central| {
            let record = fleet::endpoint(&central.state.model(), &name_or_id)?.clone();
            let patches = endpoints::patches(&central.state, &record)?;
            let settings = {
                let model = central.state.model();
                model.policy().settings(&model.groups_of(&record))
            };
            Ok::<_, AskError>((endpoints::row(&central.state, record)?, patches, settings))
        })
        .await?;
        Ok(Response::new(convert::endpoint_detail(row, patches, &settings)))
    }

    async fn check_endpoint_now(
        &self,
        request: Request<v1::CheckEndpointNowRequest>,
    ) -> Result<Response<v1::CheckEndpointNowResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let (whom, wish) = call(request.into_inner())?;
        let work = move |central: &Central| calls::call(central, &actor, &whom, wish);
        let (endpoints, audit_sequence) = blocking(&self.central, work).await?;
        Ok(Response::new(v1::CheckEndpointNowResponse { audit_sequence, endpoints }))
    }

    async fn revoke_endpoint(
        &self,
        request: Request<v1::RevokeEndpointRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::RevokeEndpointRequest { name_or_id, reason } = request.into_inner();
        let find = move |model: &Model| Ok(fleet::endpoint_exactly(model, &name_or_id)?.id.to_string());
        self.revoke(actor, reason, find).await
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::CreateTokenRequest { role, site, uses, valid_seconds, server, groups, name } =
            request.into_inner();
        let role = match role.as_str() {
            "endpoint" => Role::Endpoint,
            "relay" => Role::Relay,
            "operator" => Role::Operator,
            _ => {
                let found = format!("`role` must be endpoint, relay or operator, found `{role}`");
                return Err(Status::invalid_argument(found));
            }
        };
        let valid = match valid_seconds {
            0 => crate::enroll::TOKEN_VALID,
            seconds => Duration::from_secs(seconds),
        };
        let wanted = NewToken {
            role,
            site: parse::<SiteId>(&site)?,
            uses: uses.max(1),
            valid,
            servers: vec![server.unwrap_or_else(|| self.central.config.public_address.clone())],
            groups: groups.iter().map(|group| parse(group)).collect::<Result<_, _>>()?,
            name,
        };
        let (token, expires, audit_sequence) =
            blocking(&self.central, move |central| central.enrollment.create_token(&wanted, &actor)).await?;
        Ok(Response::new(v1::CreateTokenResponse {
            token: token.to_string(),
            expires: millis(Some(expires)),
            audit_sequence,
        }))
    }

    async fn list_operators(
        &self,
        request: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListOperatorsRequest {} = request.into_inner();
        let model = self.central.state.model();
        let operators = model.operators().values().filter_map(convert::operator).collect();
        Ok(Response::new(v1::ListOperatorsResponse { operators }))
    }

    async fn revoke_operator(
        &self,
        request: Request<v1::RevokeOperatorRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::RevokeOperatorRequest { name_or_serial, reason } = request.into_inner();
        self.change(move |central| central.enrollment.revoke_operator(&name_or_serial, &reason, &actor)).await
    }

    async fn tag_endpoint(
        &self,
        request: Request<v1::TagEndpointRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::TagEndpointRequest { name_or_id, add, remove } = request.into_inner();
        if add.len() + remove.len() > NAMES_MAX || add.len() + remove.len() == 0 {
            return Err(Status::invalid_argument("give 1 to 5,000 tags"));
        }
        let tags =
            |tags: &[String]| tags.iter().map(|tag| parse(tag)).collect::<Result<Vec<TagId>, Status>>();
        let (add, remove) = (tags(&add)?, tags(&remove)?);
        self.change(move |central| groups::tag(&central.state, &name_or_id, &add, &remove, &actor)).await
    }

    async fn list_patches(
        &self,
        request: Request<v1::ListPatchesRequest>,
    ) -> Result<Response<v1::ListPatchesResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListPatchesRequest { name, severity, state, limit, after } = request.into_inner();
        let wanted = PatchFilter {
            name,
            severity: filter(None, None, severity.as_ref())?.severity,
            standing: state.map(|text| Standing::parse(&text)).transpose().map_err(|e| e.to_status())?,
            limit: fleet::limit(limit),
            after: text(&after),
        };
        let page = blocking(&self.central, move |central| {
            patches::list(&central.state.model(), central.payloads.blobs(), &wanted)
        })
        .await?;
        Ok(Response::new(v1::ListPatchesResponse {
            patches: page.rows.into_iter().map(patch).collect(),
            next: page.next.unwrap_or_default(),
        }))
    }

    async fn get_patch(
        &self,
        request: Request<v1::GetPatchRequest>,
    ) -> Result<Response<v1::PatchDetail>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::GetPatchRequest { name_or_id } = request.into_inner();
        let (row, document, document_json, timing) = blocking(&self.central, move |central| {
            let record = fleet::update(&central.state.model(), &name_or_id)?.clone();
            let (document, json) = patches::document(&central.state, &central.trees, &record)?;
            let row = patches::row(&central.state.model(), central.payloads.blobs(), record);
            let timing = convert::timing(&central.state.model(), row.record.number);
            Ok::<_, AskError>((row, document, json, timing))
        })
        .await?;
        Ok(Response::new(v1::PatchDetail {
            patch: Some(patch(row)),
            document_json,
            references: document.references,
            supersedes: document.supersedes.iter().map(ToString::to_string).collect(),
            timing,
        }))
    }

    async fn decide_patches(
        &self,
        request: Request<v1::DecidePatchesRequest>,
    ) -> Result<Response<v1::DecidePatchesResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::DecidePatchesRequest { patches, all_needed, group, decision, rings, passed_on, successes } =
            request.into_inner();
        if patches.len() > PATCHES_AT_ONCE_MAX || all_needed != patches.is_empty() {
            return Err(Status::invalid_argument(
                "give the names of 1 to 5,000 patches, or ask for all needed",
            ));
        }
        let group = parse::<GroupId>(&group)?;
        let verb = Verb::parse(&decision).map_err(|error| error.to_status())?;
        let conditions = conditions(rings.as_ref(), passed_on.as_ref(), successes)?;
        let (changed, audit_sequence) = blocking(&self.central, move |central| {
            let about = if all_needed { About::AllNeeded } else { About::Named(&patches) };
            decide::patches_if(&central.state, about, &group, verb, &conditions, &actor)
        })
        .await?;
        let patches = changed.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::DecidePatchesResponse { audit_sequence, patches }))
    }

    async fn list_patch_endpoints(
        &self,
        request: Request<v1::ListPatchEndpointsRequest>,
    ) -> Result<Response<v1::ListPatchEndpointsResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let wanted = wanted_patch_endpoints(request.into_inner())?;
        let (answer, _) =
            blocking(&self.central, move |central| patch_endpoints_part(central, wanted)).await?;
        Ok(Response::new(answer))
    }

    type StreamPatchEndpointsStream = Streamed<v1::ListPatchEndpointsResponse>;

    async fn stream_patch_endpoints(
        &self,
        request: Request<v1::ListPatchEndpointsRequest>,
    ) -> Result<Response<Self::StreamPatchEndpointsStream>, Status> {
        self.gate.operator(request.extensions())?;
        let (_, caller, request) = request.into_parts();
        let wanted = wanted_patch_endpoints(request)?;
        Ok(Response::new(self.parts(caller, wanted, patch_endpoints_part)))
    }

    async fn plan_approval(
        &self,
        request: Request<v1::PlanApprovalRequest>,
    ) -> Result<Response<v1::PlanApprovalResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::PlanApprovalRequest { patches, group, rings } = request.into_inner();
        let (group, rings) = (parse::<GroupId>(&group)?, parse_optional(rings.as_ref())?);
        let answer = blocking(&self.central, move |central| {
            let Central { state, trees, .. } = central;
            let (plan, forecast) = plan::approval(state, trees, &patches, &group, rings.as_ref())?;
            Ok::<_, plan::PlanError>(convert::plan(&state.model(), plan, forecast))
        })
        .await?;
        Ok(Response::new(answer))
    }

    async fn apply_plan(
        &self,
        request: Request<v1::ApplyPlanRequest>,
    ) -> Result<Response<v1::ApplyPlanResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::ApplyPlanRequest { plan } = request.into_inner();
        let applied =
            blocking(&self.central, move |central| plan::apply(&central.state, &plan, &actor)).await?;
        Ok(Response::new(convert::applied(applied)))
    }

    async fn time_to_patch(
        &self,
        request: Request<v1::TimeToPatchRequest>,
    ) -> Result<Response<v1::TimeToPatchResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::TimeToPatchRequest { by, since } = request.into_inner();
        let by = By::parse(&by).map_err(|error| error.to_status())?;
        let since = (since > 0).then(|| jiff::Timestamp::from_millisecond(since));
        let since = since.transpose().map_err(|error| Status::invalid_argument(error.to_string()))?;
        let report =
            blocking(&self.central, move |central| times::time_to_patch(&central.state, by, since)).await?;
        Ok(Response::new(convert::time_to_patch(report)))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListLeasesRequest { window } = request.into_inner();
        let window = parse_optional(window.as_ref())?;
        let (model, now) = (self.central.state.model(), self.central.state.now());
        let leases = leases::held(&model, window.as_ref(), now);
        let leases = leases.map(|lease| convert::lease(&model, lease)).collect();
        Ok(Response::new(v1::ListLeasesResponse { leases }))
    }

    async fn list_relays(
        &self,
        request: Request<v1::ListRelaysRequest>,
    ) -> Result<Response<v1::ListRelaysResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListRelaysRequest {} = request.into_inner();
        let model = self.central.state.model();
        let mut relays: Vec<_> = model.relays().values().map(relay).collect();
        relays.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(Response::new(v1::ListRelaysResponse { relays }))
    }

    async fn revoke_relay(
        &self,
        request: Request<v1::RevokeRelayRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::RevokeRelayRequest { name_or_id, reason } = request.into_inner();
        let find = move |model: &Model| Ok(fleet::relay_exactly(model, &name_or_id)?.id.to_string());
        self.revoke(actor, reason, find).await
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListGroupsRequest { name, limit, after } = request.into_inner();
        let (name, after) = (parse_optional::<GroupId>(name.as_ref())?, text(&after));
        let after = parse_optional::<GroupId>(after.as_ref())?;
        let limit = fleet::limit(limit);
        let answer = blocking(&self.central, move |central| {
            Ok::<_, AskError>(convert::groups(&central.state.model(), name.as_ref(), after, limit))
        })
        .await?;
        Ok(Response::new(answer))
    }

    async fn set_group(&self, request: Request<v1::SetGroupRequest>) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::SetGroupRequest { group } = request.into_inner();
        let v1::Group { name, priority, endpoints, rule_json, site, everyone, members: _, tag, level } =
            group.ok_or_else(|| Status::invalid_argument("there is no group in the request"))?;
        let (id, level) = (parse::<GroupId>(&name)?, parse_optional::<LevelId>(level.as_ref())?);
        if endpoints.len() > NAMES_MAX {
            return Err(Status::invalid_argument("more than 5,000 endpoints are named"));
        }
        let membership = match (everyone, site, tag, rule_json) {
            (true, None, None, None) if endpoints.is_empty() => Membership::Everyone,
            (false, Some(site), None, None) if endpoints.is_empty() => Membership::Site(parse(&site)?),
            (false, None, Some(tag), None) if endpoints.is_empty() => Membership::Tag(parse(&tag)?),
            (false, None, None, Some(rule)) if endpoints.is_empty() => {
                let rule: Expr = serde_json::from_str(&rule)
                    .map_err(|error| Status::invalid_argument(format!("the rule cannot be read: {error}")))?;
                Membership::Rule(rule)
            }
            (false, None, None, None) => Membership::Named(endpoints),
            _ => {
                return Err(Status::invalid_argument(
                    "a group is everyone, or a site, or a tag, or a rule, or names its endpoints",
                ));
            }
        };
        self.change(move |central| {
            groups::set_group(&central.state, &id, priority, &membership, level.as_ref(), &actor)
        })
        .await
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::DeleteGroupRequest { name } = request.into_inner();
        let id = parse::<GroupId>(&name)?;
        self.change(move |central| groups::delete_group(&central.state, &id, &actor)).await
    }

    async fn list_auto_approvals(
        &self,
        request: Request<v1::ListAutoApprovalsRequest>,
    ) -> Result<Response<v1::ListAutoApprovalsResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListAutoApprovalsRequest {} = request.into_inner();
        let model = self.central.state.model();
        let rules = model.policy().rules().values().map(convert::rule).collect();
        Ok(Response::new(v1::ListAutoApprovalsResponse { rules }))
    }

    async fn set_auto_approval(
        &self,
        request: Request<v1::SetAutoApprovalRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::SetAutoApprovalRequest { rule } = request.into_inner();
        let v1::AutoApproval {
            name,
            group,
            catalogue,
            severity_at_least,
            matching,
            age_at_least_seconds,
            rings,
        } = rule.ok_or_else(|| Status::invalid_argument("there is no rule in the request"))?;
        let rule = AutoApprovalRecord {
            name,
            group: parse(&group)?,
            catalogue: parse_optional(catalogue.as_ref())?,
            severity_at_least: filter(None, None, severity_at_least.as_ref())?.severity,
            matching,
            age_at_least_seconds,
            rings: parse_optional(rings.as_ref())?,
        };
        let change = self.change(move |central| decide::set_rule(&central.state, rule, &actor)).await?;
        self.central.rules.wake();
        Ok(change)
    }

    async fn delete_auto_approval(
        &self,
        request: Request<v1::DeleteAutoApprovalRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::DeleteAutoApprovalRequest { name } = request.into_inner();
        self.change(move |central| decide::delete_rule(&central.state, &name, &actor)).await
    }

    async fn list_sources(
        &self,
        request: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListSourcesRequest {} = request.into_inner();
        let settings = self.central.download_settings();
        let (here, all) =
            self.central.payloads.usage(settings.which).await.map_err(|error| error.to_status())?;
        let model = self.central.state.model();
        let feeds = self.central.feeds.values().map(|feed| convert::source(&model, feed));
        let sources = feeds.chain(convert::own_source(&model)).collect();
        let download = convert::download(settings, here, all);
        Ok(Response::new(v1::ListSourcesResponse { sources, download: Some(download) }))
    }

    async fn set_download(
        &self,
        request: Request<v1::SetDownloadRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::SetDownloadRequest { enabled, at, what } = request.into_inner();
        let at: Option<Time> = at
            .map(|text| text.parse())
            .transpose()
            .map_err(|_| Status::invalid_argument("`at` must be a time of day such as `03:00`"))?;
        let which = what.map(|text| which(&text)).transpose()?;
        let change = self
            .change(move |central| decide::set_download(&central.state, enabled, at, which, &actor))
            .await?;
        self.central.download_settings_changed.wake();
        Ok(change)
    }

    type SyncSourceStream = Streamed<v1::Progress>;

    async fn sync_source(
        &self,
        request: Request<v1::SyncSourceRequest>,
    ) -> Result<Response<Streamed<v1::Progress>>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::SyncSourceRequest { name } = request.into_inner();
        let all = name.is_none();
        let names: Vec<SourceId> = match name {
            Some(name) => {
                let name = parse::<SourceId>(&name)?;
                if !self.central.feeds.contains_key(&name) {
                    return Err(Status::not_found(format!("there is no source `{name}`")));
                }
                vec![name]
            }
            None => self.central.feeds.keys().cloned().collect(),
        };
        if names.is_empty() {
            return Err(Status::failed_precondition("no source is configured"));
        }
        Ok(Response::new(progress::of_reading(self.central.clone(), names, all)))
    }

    type DownloadPayloadsStream = Streamed<v1::Progress>;

    async fn download_payloads(
        &self,
        request: Request<v1::DownloadPayloadsRequest>,
    ) -> Result<Response<Streamed<v1::Progress>>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::DownloadPayloadsRequest {} = request.into_inner();
        let central = self.central.clone();
        let watched = central.downloading.subscribe();
        Ok(Response::new(progress::of_work(watched, async move {
            let work = central.download_payloads();
            central.board.run("download", central.state.clock(), work).await.map(drop)
        })))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListTasksRequest {} = request.into_inner();
        let statuses = self.central.board.statuses();
        let tasks = statuses.into_iter().map(|(name, status)| convert::task(name, status)).collect();
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListAuditRequest { limit, before } = request.into_inner();
        let records = blocking(&self.central, move |central| {
            audit::list(central.state.store(), central.state.tenant(), before, fleet::limit(limit))
        })
        .await?;
        let records = records.into_iter().map(convert::audit_record).collect();
        Ok(Response::new(v1::ListAuditResponse { records }))
    }

    async fn verify_audit(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::VerifyAuditRequest {} = request.into_inner();
        let audit::Verified { records, head, broken } =
            blocking(&self.central, |central| audit::verify(central.state.store(), central.state.tenant()))
                .await?;
        Ok(Response::new(v1::VerifyAuditResponse { records, head: head.to_string(), broken_at: broken }))
    }
}

/// How a group's members are chosen, for messages.
fn named_members(model: &Model, group: &tierway_common::schema::Group) -> Vec<String> {
    if group.members != Members::Assigned {
        return Vec::new();
    }
    let members = model.members().get(&group.id);
    let endpoints = members.into_iter().flatten().filter_map(|number| model.endpoint(number));
    endpoints.take(NAMES_MAX).map(|endpoint| endpoint.id.to_string()).collect()
}

fn patch_times(detected: Option<u32>, authorized: Option<u32>, applied: Option<u32>) -> v1::PatchTimes {
    times(millis_of_seconds(detected), millis_of_seconds(authorized), millis_of_seconds(applied))
}
