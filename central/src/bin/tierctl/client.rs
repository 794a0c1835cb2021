//! The connection to central, and asking page by page.

use tierway_common::transport::{
    dial::{Route, channel},
    tls::Identity,
};
use tierway_proto::v1::{
    admin_client::AdminClient, packages_client::PackagesClient, policies_client::PoliciesClient,
};
use tonic::transport::Channel;

use crate::{
    contexts::{ConnectionArgs, Context},
    environment::Environment,
    failure::Failure,
};

/// Rows asked for at once: few enough to come at once, many enough that 250,000 are 250 calls.
pub(crate) const PAGE_ROWS: u32 = 1_000;

/// What commands call.
pub(crate) type Central = AdminClient<Channel>;

/// What commands about policy call.
pub(crate) type Policies = PoliciesClient<Channel>;

/// What commands about packages call.
pub(crate) type Packages = PackagesClient<Channel>;

/// Finds the context and makes a channel for it, which connects when first used.
///
/// # Errors
///
/// [`Failure::Usage`] when there is no such context, [`Failure::Local`] when a file cannot be read.
pub(crate) async fn dial(args: &ConnectionArgs, environment: &Environment) -> Result<Channel, Failure> {
    connect(&args.context(environment)?)
}

fn connect(context: &Context) -> Result<Channel, Failure> {
    let identity = Identity::load(&context.identity)
        .map_err(Failure::local(format!("use the identity of context `{}`", context.name)))?;
    let route = Route { server: context.server.clone(), proxy: context.proxy.clone() };
    Ok(channel(route, &identity))
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
