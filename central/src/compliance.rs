//! Which update stands where on which endpoint. Pure; see [`record`] for what is kept and [`index`] for
//! how the fleet is asked.

pub mod index;
pub mod record;
