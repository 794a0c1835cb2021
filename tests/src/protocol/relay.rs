//! The real relay on a simulated disk.

use std::{path::Path, sync::Arc};

use tierway_common::{
    clock::Clock,
    daemon::{stop::Stop, tasks::Tasks},
};
use tierway_proto::{joining, upstream::Upstream};
use tierway_relay::{
    config::Config,
    server::{Opened, RelayError},
    up::Up,
};

use super::{
    disk::Disk,
    net::{Net, Node},
};

/// A relay that runs.
#[derive(Debug)]
pub struct Running {
    /// What it does upward.
    pub up: Up,
    _tasks: Tasks,
}

/// Opens the relay that joined `above` in `dir` and lets it begin.
///
/// # Errors
///
/// When its disk fails meanwhile.
pub fn start(
    (node, above): (Node, Node),
    dir: &Path,
    disk: &Disk,
    net: &Net,
    clock: Clock,
    random: impl Fn() -> u32 + Clone + Send + 'static,
) -> Result<Running, RelayError> {
    let config = Config { data_dir: dir.to_owned(), disk_free_bytes_min: 0, ..Config::default() };
    let identity = joining::load(dir)?.identity;
    let holder = identity.own().holder;
    let upstream = Upstream::over(net.wire(node, above, Some(identity)));
    let stop = Stop::new();
    let opened =
        Opened::new(&config, &holder, Arc::new(disk.clone()), upstream, clock.clone(), stop.clone())?;
    let mut tasks = Tasks::new(clock, stop);
    net.opens(node, opened.door());
    let up = opened.up.clone();
    opened.begin(&mut tasks, random);
    Ok(Running { up, _tasks: tasks })
}
