//! The connection to central, and asking page by page.

use std::{io, time::Duration};

use jiff::Timestamp;
use tierway_common::{
    daemon::chain::Chain,
    transport::{
        dial::{Route, channel},
        tls::{Identity, IdentityFiles},
    },
};
use tierway_proto::{
    joining,
    upstream::Upstream,
    v1::{admin_client::AdminClient, packages_client::PackagesClient, policies_client::PoliciesClient},
};
use tonic::transport::Channel;

use crate::{
    contexts::{ConnectionArgs, Context},
    environment::Environment,
    failure::Failure,
    screen::harmless,
};

/// For how long central issues the certificates of operators.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Rows asked for at once: few enough to come at once, many enough that 250,000 are 250 calls.
pub(crate) const PAGE_ROWS: u32 = 1_000;

/// What commands call.
pub(crate) type Central = AdminClient<Channel>;

/// What commands about policy call.
pub(crate) type Policies = PoliciesClient<Channel>;

/// What commands about packages call.
pub(crate) type Packages = PackagesClient<Channel>;

/// Finds the context and makes a channel for it, which connects when first used. A certificate of which a third of
/// its life is over is renewed first; when that fails it goes on with the one it has, and says so on `errors`.
///
/// # Errors
///
/// [`Failure::Usage`] when there is no such context, [`Failure::Local`] when a file cannot be read.
pub(crate) async fn dial(
    args: &ConnectionArgs,
    environment: &Environment,
    now: Timestamp,
    errors: &mut dyn io::Write,
) -> Result<Channel, Failure> {
    let Context { name, server, proxy, identity } = args.context(environment)?;
    let identity =
        Identity::load(&identity).map_err(Failure::local(format!("use the identity of context `{name}`")))?;
    let route = Route { server, proxy };
    let channel = channel(route.clone(), &identity);
    let files = identity.files();
    // A file of another name would stay as it is.
    if files.identity.parent().is_some_and(|dir| IdentityFiles::in_dir(dir).identity == files.identity) {
        let upstream = Upstream::new(channel.clone());
        let renewed = joining::keep_fresh(&upstream, &[route], &identity, CERTIFICATE_LIFETIME, now).await;
        if let Err(error) = renewed {
            let until = identity.own().not_after;
            let sentence = format!("the certificate of context `{name}`, good until {until}, stays as it is");
            writeln!(errors, "tierctl: {}", harmless(&format!("{sentence}: {}", Chain(&error))))?;
        }
    }
    Ok(channel)
}

/// The place in a list from which the next page is asked for.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    after: String,
}

impl Cursor {
    /// What to ask after; empty for the first page.
    pub(crate) fn after(&self) -> String {
        self.after.clone()
    }

    /// Moves on to `next`, of which there is more when this is true.
    ///
    /// # Errors
    ///
    /// When central answers with the same place again, which would go on for ever.
    pub(crate) fn advance(&mut self, next: String) -> Result<bool, Failure> {
        if next.is_empty() {
            return Ok(false);
        }
        if next == self.after {
            return Err(Failure::Plain(format!("central answered with the page after `{next}` twice")));
        }
        self.after = next;
        Ok(true)
    }
}
