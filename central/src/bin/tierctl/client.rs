//! The connection to central, and asking page by page.

use std::{future, io, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
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
use tokio::sync::mpsc;
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    contexts::{ConnectionArgs, Context},
    environment::Environment,
    failure::{Exit, Failure},
    output::listing::{Listing, Shape},
    screen::{Screen, harmless},
};

/// For how long central issues the certificates of operators.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Rows asked for at once: few enough to come at once, many enough that 250,000 are 250 parts.
pub(crate) const PAGE_ROWS: u32 = 1_000;
/// Parts of a list that wait to be written.
const PARTS_AHEAD: usize = 1;

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

/// What central answers to a question about a list: its first part, and those that it sends without being asked for them.
pub(crate) struct Parts<T> {
    first: Part<T>,
    /// Ends early when the connection breaks.
    others: Pin<Box<dyn Stream<Item = Part<T>> + Send>>,
}

/// Rows, and the place of the last of them when there are more.
type Part<T> = (Vec<T>, String);

/// The answer of a call that gives one part.
pub(crate) fn one_part<T: Send + 'static>(rows: Vec<T>, next: String) -> Parts<T> {
    Parts { first: (rows, next), others: Box::pin(stream::empty()) }
}

/// The answer of a call that streams; `what` completes "could not …".
///
/// # Errors
///
/// When the call failed, or ended before its first part.
pub(crate) async fn streamed<M: Send + 'static, T: Send + 'static>(
    answer: Result<Response<Streaming<M>>, Status>,
    what: &str,
    part: fn(M) -> Part<T>,
) -> Result<Parts<T>, Failure> {
    let mut answer = answer.map_err(Failure::call(what))?.into_inner();
    let first = answer.message().await.map_err(Failure::call(what))?;
    let none = || Failure::Plain(format!("could not {what}: central answered with no part of it"));
    let first = part(first.ok_or_else(none)?);
    let others = answer.filter_map(move |message| future::ready(message.ok().map(part)));
    Ok(Parts { first, others: Box::pin(others) })
}

/// Writes a list that comes in parts. Some are asked for and read while one is written, so that central and this program
/// work at the same time; three at most are here. `ask` asks for what comes after a place; where its answer ends before
/// the list does, it is asked again for the rest.
///
/// # Errors
///
/// What `ask` fails with; when central answers with the same place again, which would go on for ever.
pub(crate) async fn list_pages<T, F>(
    screen: &mut Screen<'_>,
    shape: &Shape<T>,
    ask: impl Fn(String) -> F + Send + 'static,
) -> Result<Exit, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<Parts<T>, Failure>> + Send + 'static,
{
    let mut listing = Listing::new(shape, &screen.options)?;
    let (sender, mut parts) = mpsc::channel(PARTS_AHEAD);
    let reading = tokio::spawn(read_parts(ask, sender));
    while let Some(rows) = parts.recv().await {
        for row in &rows {
            listing.push(screen, row)?;
        }
    }
    reading.await.map_err(Failure::local("wait for the list"))??;
    listing.finish(screen)?;
    Ok(Exit::Ok)
}

/// Hands on each part of a list up to its end, or until nobody wants more.
async fn read_parts<T, F>(ask: impl Fn(String) -> F, parts: mpsc::Sender<Vec<T>>) -> Result<(), Failure>
where
    F: Future<Output = Result<Parts<T>, Failure>>,
{
    let mut cursor = Cursor::default();
    loop {
        let Parts { first, mut others } = ask(cursor.after()).await?;
        let mut part = Some(first);
        while let Some((rows, next)) = part {
            let more = cursor.advance(next);
            if parts.send(rows).await.is_err() || !more? {
                return Ok(());
            }
            part = others.next().await;
        }
    }
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
