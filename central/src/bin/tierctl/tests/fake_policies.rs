//! What the fake central says about policy.

use tierway_proto::v1::{self, policies_server::Policies};
use tonic::{Request, Response, Status};

use super::fake::{Fake, NOW_MS};

const HOUR: i64 = 3_600_000;

fn policy(kind: &str, name: &str, json: &str, used_by: &str) -> v1::Policy {
    v1::Policy { kind: kind.into(), name: name.into(), json: json.into(), used_by: used_by.into() }
}

fn policies() -> Vec<v1::Policy> {
    vec![
        policy(
            "level",
            "servers",
            r#"{"id":"servers","deadline":"30days","windows":["night"],"reboot":"if_needed"}"#,
            "group `web`",
        ),
        policy(
            "window",
            "night",
            r#"{"id":"night","opens":[{"on":{"after":[2,"tuesday",4]},"at":"02:00:00"}],"length":"4h",
            "zone":"Europe/Paris","at_once_max":3}"#,
            "service level `servers`",
        ),
        policy(
            "ring-plan",
            "safe",
            r#"{"id":"safe","rings":[{"name":"test","who":{"group":"test"},"soak":"2days"},
            {"name":"pilot","who":{"permille":55}},{"name":"broad","who":"rest"}]}"#,
            "",
        ),
        policy(
            "result-codes",
            "group/web",
            r#"{"scope":{"group":"web"},"codes":{"7":"failure","3010":"success_reboot_required"}}"#,
            "",
        ),
        policy("trust", "trust", r#"{"successes_at_least":5,"over":"2days","failure_permille_max":20}"#, ""),
    ]
}

fn rollout(stage: &str) -> v1::Rollout {
    let ring = |name: &str, open, endpoints, successes, failures| v1::RolloutRing {
        name: name.into(),
        open,
        endpoints,
        applicable: endpoints / 2,
        successes,
        failures,
    };
    v1::Rollout {
        plan: "safe".into(),
        patch: "debian-12/openssl_3.0.17-1".into(),
        stage: stage.into(),
        ring: "pilot".into(),
        since: NOW_MS - 3 * HOUR,
        detail: "ring `pilot` opened after 40 successes and 0 failures in `test`".into(),
        waits: "ring `pilot` soaks until 2026-09-23T14:00:00Z".into(),
        rings: vec![
            ring("test", true, 80, 40, 0),
            ring("pilot", true, 120, 12, 1),
            ring("broad", false, 2_200, 0, 0),
        ],
    }
}

fn template() -> v1::Template {
    v1::Template {
        name: "golden".into(),
        endpoint: "id-1".into(),
        endpoint_name: "web-01".into(),
        at: NOW_MS - HOUR,
        by: "operator:ana".into(),
        patches: 2,
    }
}

#[tonic::async_trait]
impl Policies for Fake {
    async fn list_policies(
        &self,
        r: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let v1::ListPoliciesRequest { kind } = self.note(r)?;
        let policies = policies().into_iter().filter(|p| kind.as_ref().is_none_or(|kind| *kind == p.kind));
        Ok(Response::new(v1::ListPoliciesResponse { policies: policies.collect() }))
    }

    async fn set_policies(
        &self,
        r: Request<v1::SetPoliciesRequest>,
    ) -> Result<Response<v1::SetPoliciesResponse>, Status> {
        let v1::SetPoliciesRequest { policies, dry_run } = self.note(r)?;
        let outcome = |policy: v1::NewPolicy| {
            let json: serde_json::Value = serde_json::from_str(&policy.json).unwrap();
            let name = json["id"].as_str().unwrap_or(&policy.kind).to_owned();
            v1::PolicyOutcome { kind: policy.kind, name, outcome: "changed".into() }
        };
        let outcomes = policies.into_iter().map(outcome).collect();
        let audit_sequence = if dry_run { 0 } else { 341 };
        Ok(Response::new(v1::SetPoliciesResponse { audit_sequence, outcomes }))
    }

    async fn delete_policy(
        &self,
        r: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn list_ring_members(
        &self,
        r: Request<v1::ListRingMembersRequest>,
    ) -> Result<Response<v1::ListRingMembersResponse>, Status> {
        let v1::ListRingMembersRequest { ring, after, .. } = self.note(r)?;
        let member = |number: u32, ring: &str, place, why: &str| v1::RingMember {
            endpoint: format!("id-{number}"),
            name: format!("web-{number:02}"),
            site: "osaka".into(),
            ring: ring.into(),
            place,
            why: why.into(),
        };
        // Two pages.
        let (mut members, next) = match after.as_str() {
            "" => (
                vec![
                    member(1, "test", 702, "member of group `test`"),
                    member(2, "pilot", 12, "place 12 of 1000, in the share from 0 to 54"),
                ],
                "2",
            ),
            _ => (vec![member(3, "broad", 640, "in no ring before; place 640 of 1000")], ""),
        };
        members.retain(|member| ring.as_ref().is_none_or(|ring| *ring == member.ring));
        Ok(Response::new(v1::ListRingMembersResponse { members, next: next.into() }))
    }

    async fn list_rollouts(
        &self,
        r: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        self.note(r)?;
        Ok(Response::new(v1::ListRolloutsResponse { rollouts: vec![rollout("running")] }))
    }

    async fn control_rollout(
        &self,
        r: Request<v1::ControlRolloutRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }

    async fn list_untrusted(
        &self,
        r: Request<v1::ListUntrustedRequest>,
    ) -> Result<Response<v1::ListUntrustedResponse>, Status> {
        self.note(r)?;
        let patch = v1::UntrustedPatch {
            patch: "debian-12/openssl_3.0.17-1".into(),
            applicable: 20,
            successes: 3,
            failures: 0,
            waits: "3 of 5 successes, 0 failures".into(),
        };
        Ok(Response::new(v1::ListUntrustedResponse { patches: vec![patch], testers: 24, trusted: 120 }))
    }

    async fn trust_patches(
        &self,
        r: Request<v1::TrustPatchesRequest>,
    ) -> Result<Response<v1::TrustPatchesResponse>, Status> {
        let v1::TrustPatchesRequest { patches } = self.note(r)?;
        Ok(Response::new(v1::TrustPatchesResponse { audit_sequence: 341, patches }))
    }

    async fn capture_template(
        &self,
        r: Request<v1::CaptureTemplateRequest>,
    ) -> Result<Response<v1::CaptureTemplateResponse>, Status> {
        self.note(r)?;
        Ok(Response::new(v1::CaptureTemplateResponse { audit_sequence: 341, patches: 31 }))
    }

    async fn list_templates(
        &self,
        r: Request<v1::ListTemplatesRequest>,
    ) -> Result<Response<v1::ListTemplatesResponse>, Status> {
        self.note(r)?;
        Ok(Response::new(v1::ListTemplatesResponse { templates: vec![template()] }))
    }

    async fn get_template(
        &self,
        r: Request<v1::GetTemplateRequest>,
    ) -> Result<Response<v1::TemplateDetail>, Status> {
        self.note(r)?;
        let patches = vec!["debian-12/curl_7.88.1-2".into(), "debian-12/openssl_3.0.17-1".into()];
        Ok(Response::new(v1::TemplateDetail { template: Some(template()), patches }))
    }

    async fn diff_template(
        &self,
        r: Request<v1::DiffTemplateRequest>,
    ) -> Result<Response<v1::DiffTemplateResponse>, Status> {
        self.note(r)?;
        let difference = |patch: &str, in_template, on_endpoint: &str| v1::TemplateDifference {
            patch: patch.into(),
            in_template,
            on_endpoint: on_endpoint.into(),
        };
        let differences = vec![
            difference("debian-12/openssl_3.0.17-1", true, "needed"),
            difference("debian-12/zlib_1.3-1", false, "installed"),
        ];
        Ok(Response::new(v1::DiffTemplateResponse { differences }))
    }

    async fn apply_template(
        &self,
        r: Request<v1::ApplyTemplateRequest>,
    ) -> Result<Response<v1::DecidePatchesResponse>, Status> {
        self.note(r)?;
        let patches = vec!["debian-12/curl_7.88.1-2".into(), "debian-12/openssl_3.0.17-1".into()];
        Ok(Response::new(v1::DecidePatchesResponse { audit_sequence: 341, patches }))
    }

    async fn delete_template(
        &self,
        r: Request<v1::DeleteTemplateRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }
}
