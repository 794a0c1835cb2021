//! `tierctl window`: when computers may be changed, and who of a window is down now.

use clap::Subcommand;
use tierway_proto::v1;

use crate::{
    client::Central,
    failure::{Exit, Failure},
    output::{
        listing::{self, Column, Shape},
        table::Tint,
        value::Value,
    },
    screen::Screen,
    watch::{self, WatchArgs},
};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum WindowCommand {
    /// Lists who may be down now, of windows that limit how many may be down at once
    Leases {
        /// Only of this window
        window: Option<String>,
        #[command(flatten)]
        watch: WatchArgs,
    },
}

const LEASES: Shape<v1::Lease> = Shape {
    columns: &[
        Column::new("window", |row| Value::text(&row.window)),
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("site", |row| Value::text(&row.site)),
        Column::new("since", |row| Value::Time(row.since)),
        Column::new("until", |row| Value::Time(row.until)),
        Column::wide("id", |row| Value::text(&row.endpoint)),
    ],
    tint: |_| Tint::Plain,
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: WindowCommand,
) -> Result<Exit, Failure> {
    let WindowCommand::Leases { window, watch } = command;
    watch::repeat(screen, watch, async |screen| {
        let request = v1::ListLeasesRequest { window: window.clone() };
        let answer = central.list_leases(request).await.map_err(Failure::call("list leases"))?;
        let v1::ListLeasesResponse { leases } = answer.into_inner();
        listing::write_all(screen, &LEASES, &leases)?;
        Ok(Exit::Ok)
    })
    .await
}
