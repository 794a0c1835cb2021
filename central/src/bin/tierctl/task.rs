//! `tierctl task`: central's background work.

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

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Lists them with their last run, last error and next run
    List {
        #[command(flatten)]
        watch: WatchArgs,
    },
}

const TASKS: Shape<v1::Task> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("last_run", |row| Value::Time(row.last_run)),
        Column::new("took", |row| Value::Millis(row.last_duration_ms)),
        Column::new("next_run", |row| Value::Time(row.next_run)),
        Column::new("runs", |row| Value::Count(row.runs)),
        Column::new("last_error", |row| Value::text(&row.last_error)),
    ],
    tint: |row| if row.last_error.is_empty() { Tint::Plain } else { Tint::Bad },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: TaskCommand,
) -> Result<Exit, Failure> {
    let TaskCommand::List { watch } = command;
    watch::repeat(screen, watch, async |screen| {
        let answer =
            central.list_tasks(v1::ListTasksRequest {}).await.map_err(Failure::call("list tasks"))?;
        let v1::ListTasksResponse { tasks } = answer.into_inner();
        listing::write_all(screen, &TASKS, &tasks)?;
        Ok(Exit::Ok)
    })
    .await
}
