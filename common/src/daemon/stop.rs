//! The wish to stop, known everywhere at once.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells whether the process should stop; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new() -> Self {
        let (sender, receiver) = watch::channel(false);
        Self { receiver, sender: Arc::new(sender) }
    }

    /// Asks everyone to stop.
    pub fn request(&self) {
        self.sender.send_replace(true);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn requested(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Returns when somebody asked.
    pub async fn wait(&self) {
        let mut receiver = self.receiver.clone();
        // The sender lives as long as `self`, so this ends only by a request.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// Requests a stop when the process gets SIGTERM or SIGINT; on Windows Ctrl-C, or when its console closes.
    ///
    /// # Errors
    ///
    /// When signals cannot be listened to.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let asked = asked()?;
        let stop = self.clone();
        tokio::spawn(async move {
            asked.await;
            tracing::info!("stopping");
            stop.request();
        });
        Ok(())
    }
}

/// Returns when the system asks the process to stop.
#[cfg(unix)]
fn asked() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Returns when the system asks the process to stop; a service is asked by its manager instead.
#[cfg(windows)]
fn asked() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::windows::{ctrl_c, ctrl_close};
    let (mut interrupt, mut close) = (ctrl_c()?, ctrl_close()?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = close.recv() => {}
        }
    })
}
