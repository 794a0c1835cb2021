//! The conversation with the endpoint: watches what is due, carries wishes, and begins anew when it was cut.

use std::{io, path::PathBuf, sync::Arc, thread, time::Duration};

use tierway_common::{daemon::chain::Chain, schedule};
use tierway_endpoint::local;
use tierway_proto::v1::{self, local_wish_request::Wish};
use tokio::sync::mpsc;
use tonic::Status;

use crate::window::Told;

/// First and longest wait before the endpoint is asked again: it restarts when it is updated.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Wishes that wait; who presses faster is not heard.
pub const WISHES_MAX: usize = 8;

/// Tells the window something.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Talks with the endpoint at `socket`, on a thread of its own, until `wishes` end.
///
/// # Errors
///
/// When no thread can be had.
pub fn start(socket: PathBuf, mut wishes: mpsc::Receiver<Wish>, tell: Tell) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let talking = async move {
        let mut failures = 0;
        loop {
            let why = match watch(&socket, &mut wishes, &tell, &mut failures).await {
                Ok(()) => return,
                Err(why) => why,
            };
            tracing::info!(why, "the endpoint cannot be watched now");
            tell(Told::Gone(why));
            let wait = schedule::back_off(failures, BACK_OFF.0, BACK_OFF.1, schedule::random());
            failures += 1;
            tokio::time::sleep(wait).await;
        }
    };
    thread::Builder::new().name("talk".to_owned()).spawn(move || runtime.block_on(talking))?;
    Ok(())
}

/// Until the window is gone, or, with the reason, until the endpoint is.
async fn watch(
    socket: &std::path::Path,
    wishes: &mut mpsc::Receiver<Wish>,
    tell: &Tell,
    failures: &mut u32,
) -> Result<(), String> {
    let refused = |status: Status| status.message().to_owned();
    let client = local::connect_as_person(socket).await.map_err(|error| Chain(&error).to_string())?;
    let mut shows = client.clone().watch(v1::LocalWatchRequest {}).await.map_err(refused)?.into_inner();
    *failures = 0;
    loop {
        tokio::select! {
            show = shows.message() => match show.map_err(refused)? {
                Some(show) => tell(Told::Show(Box::new(show))),
                None => return Err("the endpoint is stopping".to_owned()),
            },
            wish = wishes.recv() => {
                let Some(wish) = wish else { return Ok(()) };
                let (mut client, tell) = (client.clone(), tell.clone());
                // It may take as long as an installation; meanwhile what is due is shown.
                tokio::spawn(async move {
                    let request = v1::LocalWishRequest { wish: Some(wish) };
                    let said = match client.wish(request).await {
                        Ok(_) => "Tierway will do so.".to_owned(),
                        Err(status) => format!("Not granted: {}.", status.message()),
                    };
                    tell(Told::Said(said));
                });
            }
        }
    }
}
