//! The pipe for people: everybody who is logged on at this computer may speak on it, and is answered as a person.
//!
//! Its rights are what says so. Nobody but the system and administrators may add an instance, so that no user answers
//! other users in the endpoint's name. Which session the other end is in is the system's word; it is what here stands
//! for a user id, see [`crate::probe`].

use std::{io, num::NonZeroU8, path::Path};

use futures_util::{Stream, stream};
use interprocess::os::windows::{
    ToWtf16 as _,
    named_pipe::{PipeListenerOptions, pipe_mode::Bytes, tokio as pipes},
    security_descriptor::SecurityDescriptor,
};
use widestring::U16CString;

use super::{BUSY_WAIT, TAKEN_WAIT, pipe::Pipe};
use crate::local::{
    Peer,
    places::{Limits, Place, Places},
};

/// The system and administrators everything; who is logged on at the computer, by the console or by remote desktop,
/// has the rights that a client asks for, see [`Pipe::open`]. Without inherited rights.
const RIGHTS: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;0x12019b;;;IU)";
/// Connections of all sessions: the program of each and some short ones, of the 254 instances that Windows allows.
const CONNECTIONS: Limits = Limits { all: 200, each: 32 };
/// Who is told that there is no place for him; further ones are not.
const TURNED_AWAY: Limits = Limits { all: 16, each: 2 };
/// More than both, and the one that waits.
const INSTANCES_MAX: Option<NonZeroU8> = NonZeroU8::new(250);

type Listener = pipes::PipeListener<Bytes, Bytes>;

/// Who connects to the pipe at `path`, as soon as no other is there of that name.
pub(super) fn listen(path: &Path) -> io::Result<impl Stream<Item = io::Result<Person>> + Send + use<>> {
    let rights = U16CString::from_str(RIGHTS).map_err(io::Error::other)?;
    let path = path.to_wtf_16().map_err(io::Error::other)?.into_owned();
    let options = PipeListenerOptions::new()
        .path(path)
        .instance_limit(INSTANCES_MAX)
        .security_descriptor(Some(SecurityDescriptor::deserialize(&rights)?));
    let options = options.to_owned()?;
    let places = (Places::new(CONNECTIONS), Places::new(TURNED_AWAY));
    Ok(stream::unfold((None, options, places), |(listener, options, places)| async move {
        let listener = match listener {
            Some(listener) => listener,
            None => first(&options).await,
        };
        loop {
            let accepted = listener.accept().await;
            let (pipe, session) = match accepted.and_then(|pipe| Ok((pipe.client_session_id()?, pipe))) {
                Ok((session, pipe)) => (pipe, session),
                Err(error) => {
                    // Gone already, or no instance is free for the next.
                    tracing::debug!(%error, "a caller of the people's pipe was lost");
                    tokio::time::sleep(BUSY_WAIT).await;
                    continue;
                }
            };
            if let Some(person) = Person::seat(pipe, session, &places) {
                return Some((Ok(person), (Some(listener), options, places)));
            }
        }
    }))
}

/// The first instance, when the name is free.
async fn first(options: &PipeListenerOptions<'static>) -> Listener {
    let mut told = false;
    loop {
        match options.create_tokio_duplex::<Bytes>() {
            Ok(listener) => return listener,
            Err(error) if !told => {
                tracing::warn!(%error, "people are not answered: their pipe could not be made");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(TAKEN_WAIT).await;
    }
}

/// One connection with its place.
#[derive(Debug)]
pub(in crate::local) struct Person {
    pub(super) pipe: Pipe,
    pub(super) peer: Peer,
    _place: Place,
}

impl Person {
    /// `None` when all places are taken, also those of who is told so.
    fn seat(
        pipe: pipes::DuplexPipeStream<Bytes>,
        session: u32,
        (places, turned_away): &(Places, Places),
    ) -> Option<Self> {
        let (place, peer) = match places.take(session) {
            Ok(place) => (place, Peer::User(session)),
            Err(full) => (turned_away.take(session).ok()?, Peer::Refused(full)),
        };
        Some(Self { pipe: Pipe::new(pipe), peer, _place: place })
    }
}
