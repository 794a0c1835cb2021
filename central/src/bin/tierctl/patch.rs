//! `tierctl patch`: updates, and whether they may be installed.

use clap::{Args, Subcommand, ValueEnum};
use tierway_common::schema;
use tierway_proto::v1;

use crate::{
    client::{Central, PAGE_ROWS, list_pages, one_part, streamed},
    endpoint::state_tint,
    failure::{Exit, Failure},
    output::{
        Format,
        listing::{Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::{Value, count_text},
    },
    screen::{Screen, harmless},
    standing,
    watch::{self, WatchArgs},
};

/// Severities that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Severity {
    Critical,
    Important,
    Moderate,
    Low,
}

impl Severity {
    /// As in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Critical => schema::Severity::Critical,
            Self::Important => schema::Severity::Important,
            Self::Moderate => schema::Severity::Moderate,
            Self::Low => schema::Severity::Low,
        }
        .as_str()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PatchCommand {
    /// Lists them by name
    List(ListArgs),
    /// Shows one with its rules and payloads
    Show {
        /// Name or id
        patch: String,
    },
    /// Has them installed where they are needed; for one that is named and approved already: has it tried
    /// again where it failed
    Approve(ApproveArgs),
    /// Has them not installed
    Decline(DecideArgs),
    /// Takes back what was decided
    Clear(DecideArgs),
    /// Lists the endpoints of one
    Endpoints(EndpointsArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those with this in their name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only of this severity
    #[arg(long, value_enum)]
    severity: Option<Severity>,
    /// Only in this state
    #[arg(long, value_enum)]
    state: Option<PatchState>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PatchState {
    /// Some endpoint needs it
    Needed,
    /// Approved for some group
    Approved,
    /// Some endpoint needs it, and nothing was decided
    Unapproved,
    /// Some endpoint failed to install it
    Failed,
    /// Of some endpoint it cannot be said whether it needs it
    Unknown,
}

impl PatchState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Needed => "needed",
            Self::Approved => "approved",
            Self::Unapproved => "unapproved",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    #[command(flatten)]
    decide: DecideArgs,
    #[command(flatten)]
    conditions: ConditionArgs,
}

/// How an approval is meant.
#[derive(Debug, Default, Args)]
pub(crate) struct ConditionArgs {
    /// Ring after ring by this plan
    #[arg(long, value_name = "PLAN")]
    pub(crate) rings: Option<String>,
    /// Only if it passed on this test group: it was needed and is installed there, and failed nowhere
    #[arg(long, value_name = "GROUP")]
    pub(crate) passed_on: Option<String>,
    /// On so many of its computers [default: 1]
    #[arg(long, value_name = "NUMBER", requires = "passed_on", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) successes: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// Names or ids
    #[arg(required_unless_present = "all_needed", conflicts_with = "all_needed")]
    patches: Vec<String>,
    /// Every one that some endpoint needs now
    #[arg(long)]
    all_needed: bool,
    /// For this group
    #[arg(long, value_name = "NAME", default_value = "everyone")]
    group: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EndpointsArgs {
    /// Name or id
    patch: String,
    /// Only in this state
    #[arg(long, value_enum)]
    state: Option<EndpointState>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EndpointState {
    Needed,
    Installed,
    Failed,
    Unknown,
    RebootPending,
    NotApplicable,
}

impl EndpointState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Needed => schema::State::Needed,
            Self::Installed => schema::State::Installed,
            Self::Failed => schema::State::Failed,
            Self::Unknown => schema::State::Unknown,
            Self::RebootPending => schema::State::RebootPending,
            Self::NotApplicable => schema::State::NotApplicable,
        }
        .as_str()
    }
}

const PATCHES: Shape<v1::Patch> = Shape {
    columns: &[
        Column::new("id", |row| Value::text(&row.id)),
        Column::new("severity", |row| Value::text(&row.severity)),
        Column::new("needed", |row| Value::Count(row.endpoints_needed)),
        Column::new("installed", |row| Value::Count(row.endpoints_installed)),
        Column::new("failed", |row| Value::Count(row.endpoints_failed)),
        Column::new("unknown", |row| Value::Count(row.endpoints_unknown)),
        Column::new("approved", |row| Value::Names(row.approved.clone())),
        Column::wide("declined", |row| Value::Names(row.declined.clone())),
        Column::new("payloads", |row| Value::text(&row.payloads)),
        Column::new("size", |row| Value::Bytes(row.payload_bytes)),
        Column::new("known_since", |row| Value::Time(row.known_since)),
        Column::wide("superseded_by", |row| Value::Names(row.superseded_by.clone())),
        Column::data("catalogue", |row| Value::text(&row.catalogue)),
        Column::wide("title", |row| Value::text(&row.title)),
    ],
    tint: |row| match row {
        _ if !row.superseded_by.is_empty() => Tint::Faint,
        _ if row.endpoints_failed > 0 => Tint::Bad,
        _ if row.endpoints_needed > 0 => Tint::Warn,
        _ => Tint::Plain,
    },
};

fn times(row: &v1::PatchEndpoint) -> v1::PatchTimes {
    row.times.unwrap_or_default()
}

const TIMING: Shape<v1::ClassTiming> = Shape {
    columns: &[
        Column::new("machine_class", |row| {
            Value::text(if row.class.is_empty() { "all" } else { row.class.as_str() })
        }),
        Column::new("installations", |row| Value::Count(row.samples.into())),
        Column::new("p95", |row| Value::Span(row.p95_ms)),
        Column::new("published", |row| match row.published_ms {
            0 => Value::Text(String::new()),
            published => Value::Span(published),
        }),
    ],
    tint: |_| Tint::Plain,
};

const ENDPOINTS: Shape<v1::PatchEndpoint> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("site", |row| Value::text(&row.site)),
        Column::wide("state", |row| Value::text(&row.state)),
        Column::new("standing", |row| standing::name(row.standing.as_ref())),
        Column::new("since", |row| standing::since(row.standing.as_ref())),
        Column::new("until", |row| standing::until(row.standing.as_ref())),
        Column::new("source", |row| standing::source(row.standing.as_ref())),
        Column::new("heard", |row| standing::heard(row.standing.as_ref())),
        Column::wide("detected", |row| Value::Time(times(row).detected)),
        Column::wide("authorized", |row| Value::Time(times(row).authorized)),
        Column::wide("applied", |row| Value::Time(times(row).applied)),
        Column::new("detail", |row| standing::detail(row.standing.as_ref(), &row.detail)),
        Column::wide("id", |row| Value::text(&row.endpoint)),
    ],
    tint: |row| state_tint(&row.state),
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: PatchCommand,
) -> Result<Exit, Failure> {
    match command {
        PatchCommand::List(args) => {
            watch::repeat(screen, args.watch, async |screen| list(screen, central, &args).await).await
        }
        PatchCommand::Show { patch } => show(screen, central, patch).await,
        PatchCommand::Approve(ApproveArgs { decide: args, conditions }) => {
            decide(screen, central, args, conditions, Decision::Approve).await
        }
        PatchCommand::Decline(args) => {
            decide(screen, central, args, ConditionArgs::default(), Decision::Decline).await
        }
        PatchCommand::Clear(args) => {
            decide(screen, central, args, ConditionArgs::default(), Decision::Clear).await
        }
        PatchCommand::Endpoints(args) => {
            watch::repeat(screen, args.watch, async |screen| endpoints(screen, central, &args).await).await
        }
    }
}

async fn list(screen: &mut Screen<'_>, central: &mut Central, args: &ListArgs) -> Result<Exit, Failure> {
    let wanted = v1::ListPatchesRequest {
        name: args.name.clone(),
        severity: args.severity.map(|severity| severity.as_str().to_owned()),
        state: args.state.map(|state| state.as_str().to_owned()),
        limit: PAGE_ROWS,
        after: String::new(),
    };
    let central = central.clone();
    list_pages(screen, &PATCHES, move |after| {
        let (mut central, request) = (central.clone(), v1::ListPatchesRequest { after, ..wanted.clone() });
        async move {
            let answer = central.list_patches(request).await.map_err(Failure::call("list patches"))?;
            let v1::ListPatchesResponse { patches, next } = answer.into_inner();
            Ok(one_part(patches, next))
        }
    })
    .await
}

async fn show(screen: &mut Screen<'_>, central: &mut Central, name: String) -> Result<Exit, Failure> {
    let what = format!("show patch `{name}`");
    let answer =
        central.get_patch(v1::GetPatchRequest { name_or_id: name }).await.map_err(Failure::call(what))?;
    let v1::PatchDetail { patch, document_json, references, supersedes, timing } = answer.into_inner();
    let v1::Patch {
        id,
        title,
        severity,
        catalogue,
        known_since,
        endpoints_needed,
        endpoints_installed,
        endpoints_failed,
        endpoints_unknown,
        approved,
        declined,
        payload_bytes,
        payloads,
        superseded_by,
    } = patch.unwrap_or_default();
    let document: serde_json::Value = serde_json::from_str(&document_json)
        .map_err(Failure::local(format!("read the document of `{id}`")))?;
    Sheet::new([
        ("id", Value::Text(id)),
        ("title", Value::Text(title)),
        ("catalogue", Value::Text(catalogue)),
        ("severity", Value::Text(severity)),
        ("known_since", Value::Time(known_since)),
        ("references", Value::Names(references)),
        ("supersedes", Value::Names(supersedes)),
        ("superseded_by", Value::Names(superseded_by)),
        ("approved", Value::Names(approved)),
        ("declined", Value::Names(declined)),
        ("needed", Value::Count(endpoints_needed)),
        ("installed", Value::Count(endpoints_installed)),
        ("failed", Value::Count(endpoints_failed)),
        ("unknown", Value::Count(endpoints_unknown)),
        ("payloads", Value::Text(payloads)),
        ("size", Value::Bytes(payload_bytes)),
    ])
    .with_json("document", document.clone())
    .with_rows("timing", &TIMING, &timing)?
    .write(screen)?;
    section(screen, "", &TIMING, &timing)?;
    if screen.options.output == Format::Wide {
        let text =
            serde_json::to_string_pretty(&document).map_err(Failure::local("write the document as JSON"))?;
        writeln!(screen.out)?;
        for line in text.lines() {
            writeln!(screen.out, "{}", harmless(line))?;
        }
        screen.out.flush()?;
    }
    Ok(Exit::Ok)
}

#[derive(Clone, Copy, Debug)]
enum Decision {
    Approve,
    Decline,
    Clear,
}

impl Decision {
    fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Decline => "decline",
            Self::Clear => "clear",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Approve => "approved",
            Self::Decline => "declined",
            Self::Clear => "cleared",
        }
    }
}

async fn decide(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: DecideArgs,
    conditions: ConditionArgs,
    decision: Decision,
) -> Result<Exit, Failure> {
    let DecideArgs { patches, all_needed, group } = args;
    let ConditionArgs { rings, passed_on, successes } = conditions;
    let request = v1::DecidePatchesRequest {
        patches,
        all_needed,
        group: group.clone(),
        decision: decision.as_str().to_owned(),
        rings,
        passed_on,
        successes: successes.unwrap_or(0),
    };
    let what = format!("{} patches for group `{group}`", decision.as_str());
    let answer = central.decide_patches(request).await.map_err(Failure::call(what))?;
    let v1::DecidePatchesResponse { audit_sequence, patches } = answer.into_inner();
    if matches!(screen.options.output, Format::Table | Format::Wide) {
        for patch in &patches {
            writeln!(screen.out, "{}", harmless(patch))?;
        }
    }
    let plural = if patches.len() == 1 { "patch" } else { "patches" };
    let count = count_text(u64::try_from(patches.len()).unwrap_or(u64::MAX));
    let sentence = format!("{} {count} {plural} for group `{group}`", decision.done());
    let fields = [
        ("decision", Value::text(decision.as_str())),
        ("group", Value::Text(group)),
        ("patches", Value::Names(patches)),
    ];
    changed(screen, &sentence, fields, audit_sequence)?;
    Ok(Exit::Ok)
}

async fn endpoints(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: &EndpointsArgs,
) -> Result<Exit, Failure> {
    let wanted = v1::ListPatchEndpointsRequest {
        patch: args.patch.clone(),
        state: args.state.map(|state| state.as_str().to_owned()),
        limit: PAGE_ROWS,
        after: String::new(),
    };
    let central = central.clone();
    list_pages(screen, &ENDPOINTS, move |after| {
        let request = v1::ListPatchEndpointsRequest { after, ..wanted.clone() };
        let mut central = central.clone();
        async move {
            let what = format!("list the endpoints of patch `{}`", request.patch);
            let answer = central.stream_patch_endpoints(request).await;
            streamed(answer, &what, |part| (part.endpoints, part.next)).await
        }
    })
    .await
}
