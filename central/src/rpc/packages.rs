//! `Packages`: an administrator's own packages, sent, added, listed and removed.

use std::{sync::Arc, time::Duration};

use tierway_common::{blobs::Writer, daemon::chain::Chain, rules::expr::Expr, trust::digest::Digest};
use tierway_proto::v1::{self, packages_server};
use tonic::{Request, Response, Status, Streaming};

use super::{ToStatus, blocking, gate::Gate, millis};
use crate::{
    fleet,
    packages::{Added, Outcome, Package, PackagesError, Prepared, Trial},
    server::Central,
    sources::local::Wishes,
};

/// Longest piece of a file.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// How long somebody who sends a file may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The service; cheap to clone.
#[derive(Clone, Debug)]
pub struct PackagesService {
    central: Arc<Central>,
    gate: Gate,
}

impl PackagesService {
    /// On the given central.
    #[must_use]
    pub fn new(central: Arc<Central>, gate: Gate) -> Self {
        Self { central, gate }
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|_| Status::invalid_argument("`digest` must be a SHA-256 of 32 bytes"))
}

fn rule(what: &str, json: Option<String>) -> Result<Option<Expr>, Status> {
    let read = |json: String| serde_json::from_str(&json);
    json.map(read)
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("`{what}` is no rule: {}", Chain(&error))))
}

fn wishes(request: v1::AddPackageRequest) -> Result<Wishes, Status> {
    let v1::AddPackageRequest {
        digest: _,
        file_name: _,
        name,
        version,
        title,
        severity,
        references,
        applicable_json,
        installed_json,
        entry,
        arguments,
        os_version,
        only_upgrade,
        dry_run: _,
    } = request;
    let severity = severity.map(|text| fleet::severity(&text)).transpose();
    Ok(Wishes {
        name,
        version,
        title,
        severity: severity.map_err(|error| error.to_status())?,
        references,
        applicable: rule("applicable", applicable_json)?,
        installed: rule("installed", installed_json)?,
        entry,
        arguments,
        os_version,
        only_upgrade,
    })
}

fn added(added: Added) -> Result<v1::AddPackageResponse, Status> {
    let Added { update, notes, outcome, audit_sequence } = added;
    let document_json =
        serde_json::to_string(&update).map_err(|error| Status::internal(error.to_string()))?;
    Ok(v1::AddPackageResponse {
        patch: update.id.to_string(),
        document_json,
        outcome: match outcome {
            Outcome::Added => "added",
            Outcome::Changed => "changed",
            Outcome::Unchanged => "unchanged",
        }
        .to_owned(),
        notes,
        supersedes: update.supersedes.iter().map(ToString::to_string).collect(),
        audit_sequence,
    })
}

fn package(package: Package) -> v1::Package {
    let Package { update, present } = package;
    v1::Package {
        patch: update.id.to_string(),
        kind: update.install.kind().to_owned(),
        bytes: update.install.payloads().iter().map(|(_, payload)| payload.bytes).sum(),
        added: millis(Some(update.released)),
        superseded_by: update.superseded_by.iter().map(ToString::to_string).collect(),
        title: update.title,
        version: update.version,
        present,
    }
}

/// The next piece, which must come in time.
async fn next(pieces: &mut Streaming<v1::PackagePiece>) -> Result<Option<v1::PackagePiece>, Status> {
    match tokio::time::timeout(SILENCE_MAX, pieces.message()).await {
        Ok(piece) => piece,
        Err(_) => Err(Status::deadline_exceeded("nothing of the file came for a minute")),
    }
}

fn write(writer: &mut Writer, data: &[u8]) -> Result<(), Status> {
    if data.len() > PIECE_BYTES_MAX {
        return Err(Status::invalid_argument(format!("a piece may have at most {PIECE_BYTES_MAX} bytes")));
    }
    writer.write(data).map_err(|error| PackagesError::from(error).to_status())
}

#[tonic::async_trait]
impl packages_server::Packages for PackagesService {
    async fn prepare_upload(
        &self,
        request: Request<v1::PrepareUploadRequest>,
    ) -> Result<Response<v1::PrepareUploadResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::PrepareUploadRequest { digest: of, bytes } = request.into_inner();
        let of = digest(&of)?;
        let prepared = blocking(&self.central, move |central| central.packages.prepare(of, bytes)).await?;
        let (present, offset) = match prepared {
            Prepared::Present => (true, 0),
            Prepared::From(offset) => (false, offset),
        };
        Ok(Response::new(v1::PrepareUploadResponse { present, offset }))
    }

    async fn upload_package(
        &self,
        request: Request<Streaming<v1::PackagePiece>>,
    ) -> Result<Response<v1::UploadPackageResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let mut pieces = request.into_inner();
        let first = next(&mut pieces).await?;
        let Some(v1::PackagePiece { digest: of, bytes, offset, data }) = first else {
            return Err(Status::invalid_argument("nothing was sent"));
        };
        let of = digest(&of)?;
        let mut writer = blocking(&self.central, move |central| central.packages.writer(of, bytes)).await?;
        if writer.offset() != offset {
            let here = writer.offset();
            return Err(Status::aborted(format!(
                "{here} bytes are here, and what was sent begins at {offset}"
            )));
        }
        write(&mut writer, &data)?;
        while let Some(v1::PackagePiece { data, .. }) = next(&mut pieces).await? {
            write(&mut writer, &data)?;
        }
        let here = writer.offset();
        if here < bytes {
            return Err(Status::aborted(format!("only {here} of {bytes} bytes came")));
        }
        blocking(&self.central, move |_| writer.finish().map_err(PackagesError::from)).await?;
        Ok(Response::new(v1::UploadPackageResponse { bytes }))
    }

    async fn add_package(
        &self,
        request: Request<v1::AddPackageRequest>,
    ) -> Result<Response<v1::AddPackageResponse>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let request = request.into_inner();
        let (of, name) = (digest(&request.digest)?, request.file_name.clone());
        let trial = if request.dry_run { Trial::Trial } else { Trial::Earnest };
        let wishes = wishes(request)?;
        let result =
            blocking(&self.central, move |central| central.packages.add(&actor, of, &name, wishes, trial));
        let result = result.await?;
        self.central.rules.wake();
        Ok(Response::new(added(result)?))
    }

    async fn list_packages(
        &self,
        request: Request<v1::ListPackagesRequest>,
    ) -> Result<Response<v1::ListPackagesResponse>, Status> {
        self.gate.operator(request.extensions())?;
        let v1::ListPackagesRequest {} = request.into_inner();
        let packages = blocking(&self.central, |central| central.packages.list()).await?;
        Ok(Response::new(v1::ListPackagesResponse { packages: packages.into_iter().map(package).collect() }))
    }

    async fn remove_package(
        &self,
        request: Request<v1::RemovePackageRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        let actor = self.gate.operator(request.extensions())?;
        let v1::RemovePackageRequest { patch } = request.into_inner();
        let audit_sequence =
            blocking(&self.central, move |central| central.packages.remove(&actor, &patch)).await?;
        Ok(Response::new(v1::Change { audit_sequence }))
    }
}
