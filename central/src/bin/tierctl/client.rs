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
    failure::{Exit, Failure},
    output::listing::{Listing, Shape},
    screen::{Screen, harmless},
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

/// Writes a list that comes page by page. Each is asked for while the one before it is written, so that central and this
/// program work at the same time; two pages at most are here. `ask` gives the rows after a place, and the place of the
/// last of them when there are more.
///
/// # Errors
///
/// What `ask` fails with; when central answers with the same place again, which would go on for ever.
pub(crate) async fn list_pages<T, F>(
    screen: &mut Screen<'_>,
    shape: &Shape<T>,
    ask: impl Fn(String) -> F,
) -> Result<Exit, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<(Vec<T>, String), Failure>> + Send + 'static,
{
    let mut listing = Listing::new(shape, &screen.options)?;
    let mut cursor = Cursor::default();
    let mut asked = tokio::spawn(ask(cursor.after()));
    loop {
        let (rows, next) = (&mut asked).await.map_err(Failure::local("wait for the list"))??;
        let more = cursor.advance(next);
        if matches!(more, Ok(true)) {
            asked = tokio::spawn(ask(cursor.after()));
        }
        for row in &rows {
            listing.push(screen, row)?;
        }
        if !more? {
            break;
        }
    }
    listing.finish(screen)?;
    Ok(Exit::Ok)
}

/// The place in a list from which the next page is asked for.
#[derive(Debug, Default)]
struct Cursor {
    after: String,
}

impl Cursor {
    /// What to ask after; empty for the first page.
    fn after(&self) -> String {
        self.after.clone()
    }

    /// Moves on to `next`, of which there is more when this is true.
    ///
    /// # Errors
    ///
    /// When central answers with the same place again, which would go on for ever.
    fn advance(&mut self, next: String) -> Result<bool, Failure> {
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
