//! What the fake central says about packages. It has the file whose digest begins with a zero bit, and lacks others.

use tierway_proto::v1::{self, packages_server::Packages};
use tonic::{Request, Response, Status, Streaming};

use super::fake::{Fake, NOW_MS};

#[tonic::async_trait]
impl Packages for Fake {
    async fn prepare_upload(
        &self,
        r: Request<v1::PrepareUploadRequest>,
    ) -> Result<Response<v1::PrepareUploadResponse>, Status> {
        let v1::PrepareUploadRequest { digest, bytes } = r.into_inner();
        self.asked.lock().unwrap().push(format!("PrepareUpload {} bytes", bytes));
        Ok(Response::new(v1::PrepareUploadResponse { present: digest[0] < 0x80, offset: 2 }))
    }

    async fn upload_package(
        &self,
        r: Request<Streaming<v1::PackagePiece>>,
    ) -> Result<Response<v1::UploadPackageResponse>, Status> {
        let mut pieces = r.into_inner();
        let mut bytes = 0;
        while let Some(piece) = pieces.message().await? {
            bytes += piece.data.len() as u64;
            let (from, length) = (piece.offset, piece.data.len());
            self.asked.lock().unwrap().push(format!("UploadPackage {length} bytes from {from}"));
        }
        Ok(Response::new(v1::UploadPackageResponse { bytes }))
    }

    async fn add_package(
        &self,
        r: Request<v1::AddPackageRequest>,
    ) -> Result<Response<v1::AddPackageResponse>, Status> {
        let mut r = r;
        r.get_mut().digest.truncate(1);
        let request = self.note(r)?;
        if request.file_name.ends_with(".toml") && request.installed_json.is_none() {
            return Err(Status::invalid_argument(format!("`{}` is neither an MSI", request.file_name)));
        }
        Ok(Response::new(v1::AddPackageResponse {
            patch: "local/app_1.1".into(),
            document_json: r#"{"id":"local/app_1.1"}"#.into(),
            outcome: "added".into(),
            notes: vec!["it has no upgrade code".into()],
            supersedes: vec!["local/app_1.0".into()],
            audit_sequence: if request.dry_run { 0 } else { 341 },
        }))
    }

    async fn list_packages(
        &self,
        r: Request<v1::ListPackagesRequest>,
    ) -> Result<Response<v1::ListPackagesResponse>, Status> {
        self.note(r)?;
        let package = |version: &str, superseded_by: &[&str], present| v1::Package {
            patch: format!("local/app_{version}"),
            title: format!("App {version}"),
            version: version.into(),
            kind: "msi".into(),
            bytes: 5_300_000,
            added: NOW_MS - 3_600_000,
            superseded_by: superseded_by.iter().map(|id| (*id).into()).collect(),
            present,
        };
        let packages = vec![package("1.0", &["local/app_1.1"], false), package("1.1", &[], true)];
        Ok(Response::new(v1::ListPackagesResponse { packages }))
    }

    async fn remove_package(
        &self,
        r: Request<v1::RemovePackageRequest>,
    ) -> Result<Response<v1::Change>, Status> {
        self.note(r)?;
        self.change()
    }
}
