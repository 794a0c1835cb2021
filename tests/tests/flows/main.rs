//! Flows through more than one part of Tierway, and through Tierway and its neighbours.

// `cfg(test)` holds for all of it; said on each module so that the lints see tests in the helpers too.
#[cfg(test)]
mod doors;
#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod obeys;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod power;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod real_archive;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod standing;
#[cfg(test)]
mod trees;
#[cfg(test)]
mod tuf_interop;
#[cfg(test)]
mod why;
#[cfg(test)]
mod windows;
#[cfg(test)]
mod windows_endpoint;
#[cfg(test)]
mod windows_relay;
#[cfg(test)]
mod year;
