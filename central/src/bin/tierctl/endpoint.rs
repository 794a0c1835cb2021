//! `tierctl endpoint`: the computers that are patched.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use tierway_proto::v1;

use crate::{
    client::{Central, PAGE_ROWS, list_pages, streamed},
    confirm::{ConfirmArgs, confirm},
    failure::{Exit, Failure},
    output::{
        Format,
        listing::{self, Column, Shape},
        sheet::{Sheet, changed, section},
        table::Tint,
        value::Value,
    },
    screen::{Screen, harmless},
    standing,
    watch::{self, WatchArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Lists them by name
    List(ListArgs),
    /// Shows one with its patches, or how far one patch has come there, step by step
    Show {
        /// Name or id
        endpoint: String,
        /// Id of a patch, or a part of it
        patch: Option<String>,
    },
    /// Tells one, or many, to check now: to scan, and to install what is due
    CheckNow(CheckNowArgs),
    /// Gives one tags, by which groups choose
    Tag(TagArgs),
    /// Takes tags from one
    Untag(TagArgs),
    /// Makes a token with which new endpoints enrol
    Token(TokenArgs),
    /// Refuses one from now on; it must enrol again
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("whom").required(true).multiple(true).args(["endpoint", "site", "group", "everyone"])
))]
pub(crate) struct CheckNowArgs {
    /// Name or id; it is told also when it is on the road, and when it comes if it is not connected
    #[arg(conflicts_with_all = ["site", "group", "everyone"])]
    endpoint: Option<String>,
    /// Those of this site
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Those of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// All of them
    #[arg(long, conflicts_with_all = ["site", "group"])]
    everyone: bool,
    /// They report all facts and states, not only what changed
    #[arg(long)]
    report_inventory: bool,
    /// Also those on the road, that is not behind the relay of their site
    #[arg(long)]
    include_roaming: bool,
    /// Also those that are not connected, when they come
    #[arg(long)]
    include_offline: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Only of this site
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Only of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only those with this in their name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only those that need a patch
    #[arg(long)]
    needing: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or id
    endpoint: String,
    /// Such as `web` or `env=prod`
    #[arg(required = true)]
    tags: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Site the endpoints belong to
    #[arg(long, value_name = "NAME")]
    site: String,
    /// Group the endpoints join, may be given again
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    #[command(flatten)]
    use_: TokenUse,
}

/// How a token may be used; the same for endpoints and relays.
#[derive(Debug, Args)]
pub(crate) struct TokenUse {
    /// How many machines may use it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "1day", value_parser = humantime::parse_duration)]
    valid: Duration,
    /// Where the machines connect, such as the relay of their site [default: central]
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Name or id
    endpoint: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

const ENDPOINTS: Shape<v1::Endpoint> = Shape {
    columns: &[
        Column::new("name", |row| Value::text(&row.name)),
        Column::new("site", |row| Value::text(&row.site)),
        Column::new("os", |row| Value::text(&row.os)),
        Column::new("needed", |row| Value::Count(row.needed)),
        Column::wide("needed_approved", |row| Value::Count(row.needed_approved)),
        Column::new("installed", |row| Value::Count(row.installed)),
        Column::new("failed", |row| Value::Count(row.failed)),
        Column::new("unknown", |row| Value::Count(row.unknown)),
        Column::new("reboot_pending", |row| Value::Flag(row.reboot_pending)),
        Column::new("last_report", |row| Value::Time(row.last_report)),
        Column::wide("zone", |row| Value::text(&row.zone)),
        Column::wide("groups", |row| Value::Names(row.groups.clone())),
        Column::wide("agent_version", |row| Value::text(&row.agent_version)),
        Column::wide("enrolled_at", |row| Value::Time(row.enrolled_at)),
        Column::new("revoked", |row| Value::Flag(row.revoked)),
        Column::wide("id", |row| Value::text(&row.id)),
    ],
    tint: |row| match row {
        _ if row.revoked => Tint::Faint,
        _ if row.failed > 0 => Tint::Bad,
        _ if row.needed > 0 || row.reboot_pending => Tint::Warn,
        _ => Tint::Plain,
    },
};

fn times(patch: &v1::EndpointPatch) -> v1::PatchTimes {
    patch.times.unwrap_or_default()
}

const PATCHES: Shape<v1::EndpointPatch> = Shape {
    columns: &[
        Column::new("patch", |row| Value::text(&row.patch)),
        Column::new("severity", |row| Value::text(&row.severity)),
        Column::wide("state", |row| Value::text(&row.state)),
        Column::wide("approved", |row| Value::Flag(row.approved)),
        Column::new("standing", |row| standing::name(row.standing.as_ref())),
        Column::new("since", |row| standing::since(row.standing.as_ref())),
        Column::new("until", |row| standing::until(row.standing.as_ref())),
        Column::new("source", |row| standing::source(row.standing.as_ref())),
        Column::new("heard", |row| standing::heard(row.standing.as_ref())),
        Column::wide("detected", |row| Value::Time(times(row).detected)),
        Column::wide("authorized", |row| Value::Time(times(row).authorized)),
        Column::wide("applied", |row| Value::Time(times(row).applied)),
        Column::wide("title", |row| Value::text(&row.title)),
        Column::new("detail", |row| standing::detail(row.standing.as_ref(), &row.detail)),
    ],
    tint: |row| match standing::tint(row.standing.as_ref()) {
        Tint::Plain => state_tint(&row.state),
        tint => tint,
    },
};

/// How a state strikes the eye.
pub(crate) fn state_tint(state: &str) -> Tint {
    match state {
        "failed" => Tint::Bad,
        "needed" | "unknown" | "reboot pending" => Tint::Warn,
        "not applicable" => Tint::Faint,
        _ => Tint::Plain,
    }
}

/// Where a setting comes from that no level says anything about.
const BUILT_IN: &str = "built in";

const SETTINGS: Shape<v1::Setting> = Shape {
    columns: &[
        Column::new("setting", |row| Value::text(&row.name)),
        Column::new("value", |row| {
            match serde_json::from_str(&row.value).unwrap_or_else(|_| row.value.clone().into()) {
                serde_json::Value::String(text) => Value::Text(text),
                other => Value::Text(other.to_string()),
            }
        }),
        Column::new("origin", |row| Value::text(&row.origin)),
    ],
    tint: |row| if row.origin == BUILT_IN { Tint::Faint } else { Tint::Plain },
};

pub(crate) async fn run(
    screen: &mut Screen<'_>,
    central: &mut Central,
    command: EndpointCommand,
) -> Result<Exit, Failure> {
    match command {
        EndpointCommand::List(args) => {
            watch::repeat(screen, args.watch, async |screen| list(screen, central, &args).await).await
        }
        EndpointCommand::Show { endpoint, patch: None } => show(screen, central, endpoint).await,
        EndpointCommand::Show { endpoint, patch: Some(patch) } => {
            steps(screen, central, endpoint, &patch).await
        }
        EndpointCommand::CheckNow(args) => check_now(screen, central, args).await,
        EndpointCommand::Tag(args) => tag(screen, central, args, Tagging::Add).await,
        EndpointCommand::Untag(args) => tag(screen, central, args, Tagging::Remove).await,
        EndpointCommand::Token(args) => token(screen, central, args).await,
        EndpointCommand::Revoke(args) => revoke(screen, central, args).await,
    }
}

async fn list(screen: &mut Screen<'_>, central: &mut Central, args: &ListArgs) -> Result<Exit, Failure> {
    let wanted = v1::ListEndpointsRequest {
        site: args.site.clone(),
        group: args.group.clone(),
        name: args.name.clone(),
        needing: args.needing.then_some(true),
        limit: PAGE_ROWS,
        after: String::new(),
    };
    let central = central.clone();
    list_pages(screen, &ENDPOINTS, move |after| {
        let (mut central, request) = (central.clone(), v1::ListEndpointsRequest { after, ..wanted.clone() });
        async move {
            let answer = central.stream_endpoints(request).await;
            streamed(answer, "list endpoints", |part| (part.endpoints, part.next)).await
        }
    })
    .await
}

async fn show(screen: &mut Screen<'_>, central: &mut Central, name: String) -> Result<Exit, Failure> {
    let what = format!("show endpoint `{name}`");
    let answer = central
        .get_endpoint(v1::GetEndpointRequest { name_or_id: name })
        .await
        .map_err(Failure::call(what))?;
    let v1::EndpointDetail {
        endpoint,
        patches,
        facts_digest,
        packages,
        problems,
        certificate_expires,
        tags,
        settings,
        managers,
    } = answer.into_inner();
    if screen.options.output == Format::Csv {
        listing::write_all(screen, &PATCHES, &patches)?;
        return Ok(Exit::Ok);
    }
    let v1::Endpoint {
        id,
        name,
        site,
        os,
        agent_version,
        enrolled_at,
        last_report,
        needed,
        needed_approved,
        installed,
        failed,
        unknown,
        revoked,
        reboot_pending,
        groups,
        zone,
    } = endpoint.unwrap_or_default();
    let sheet = Sheet::new([
        ("name", Value::Text(name)),
        ("id", Value::Text(id)),
        ("site", Value::Text(site)),
        ("groups", Value::Names(groups)),
        ("tags", Value::Names(tags)),
        ("os", Value::Text(os)),
        ("zone", Value::Text(zone)),
        ("agent_version", Value::Text(agent_version)),
        ("enrolled_at", Value::Time(enrolled_at)),
        ("certificate_expires", Value::Time(certificate_expires)),
        ("revoked", Value::Flag(revoked)),
        ("last_report", Value::Time(last_report)),
        ("packages", Value::Count(packages)),
        ("facts_digest", Value::Text(facts_digest)),
        ("needed", Value::Count(needed)),
        ("needed_approved", Value::Count(needed_approved)),
        ("installed", Value::Count(installed)),
        ("failed", Value::Count(failed)),
        ("unknown", Value::Count(unknown)),
        ("reboot_pending", Value::Flag(reboot_pending)),
    ])
    .with_json("problems", serde_json::json!(problems))
    .with_json("other_managers", serde_json::json!(managers))
    .with_rows("settings", &SETTINGS, &settings)?
    .with_rows("patches", &PATCHES, &patches)?;
    sheet.write(screen)?;
    if matches!(screen.options.output, Format::Table | Format::Wide) {
        for problem in &problems {
            writeln!(screen.out, "problem: {}", harmless(problem))?;
        }
        for manager in &managers {
            writeln!(screen.out, "other manager: {}", harmless(manager))?;
        }
        // What nobody said anything about is long and the same everywhere.
        let all = screen.options.output == Format::Wide;
        let said: Vec<_> = settings.into_iter().filter(|setting| all || setting.origin != BUILT_IN).collect();
        section(screen, "", &SETTINGS, &said)?;
        section(screen, "", &PATCHES, &patches)?;
    }
    Ok(Exit::Ok)
}

/// How far one patch has come on one endpoint.
async fn steps(
    screen: &mut Screen<'_>,
    central: &mut Central,
    name: String,
    patch: &str,
) -> Result<Exit, Failure> {
    let what = format!("show endpoint `{name}`");
    let request = v1::GetEndpointRequest { name_or_id: name.clone() };
    let answer = central.get_endpoint(request).await.map_err(Failure::call(what))?.into_inner();
    let fits = |row: &&v1::EndpointPatch| row.patch.contains(patch);
    let mut found: Vec<_> = answer.patches.iter().filter(fits).collect();
    if let Some(exactly) = found.iter().find(|row| row.patch == patch) {
        found = vec![exactly];
    }
    if found.is_empty() {
        return Err(not_there(central, &answer, &name, patch).await);
    }
    let [row] = found[..] else {
        let count = found.len();
        return Err(Failure::Plain(format!("{count} patches of `{name}` have `{patch}` in their id")));
    };
    let steps = row.standing.as_ref().map(|standing| standing.steps.as_slice()).unwrap_or_default();
    if screen.options.output == Format::Csv {
        listing::write_all(screen, &standing::STEPS, steps)?;
        return Ok(Exit::Ok);
    }
    Sheet::new([
        ("patch", Value::text(&row.patch)),
        ("state", Value::text(&row.state)),
        ("standing", standing::name(row.standing.as_ref())),
        ("since", standing::since(row.standing.as_ref())),
        ("until", standing::until(row.standing.as_ref())),
        ("source", standing::source(row.standing.as_ref())),
        ("heard", standing::heard(row.standing.as_ref())),
        ("detail", standing::detail(row.standing.as_ref(), &row.detail)),
    ])
    .with_rows("steps", &standing::STEPS, steps)?
    .write(screen)?;
    section(screen, "", &standing::STEPS, steps)?;
    Ok(Exit::Ok)
}

/// Why an endpoint has no patch of that name: central has none either, or it is not for this computer.
async fn not_there(central: &mut Central, detail: &v1::EndpointDetail, name: &str, patch: &str) -> Failure {
    let request = v1::GetPatchRequest { name_or_id: patch.to_owned() };
    let found = match central.get_patch(request).await {
        Ok(found) => found.into_inner().patch.unwrap_or_default(),
        Err(status) => return Failure::call(format!("show patch `{patch}` on endpoint `{name}`"))(status),
    };
    let id = &found.id;
    Failure::Plain(if detail.facts_digest.is_empty() {
        format!("whether patch `{id}` is for endpoint `{name}` is unknown: it has not reported its facts yet")
    } else if !found.superseded_by.is_empty() {
        format!("patch `{id}` is not followed any more: replaced by `{}`", found.superseded_by.join("`, `"))
    } else {
        format!("patch `{id}` is not applicable on endpoint `{name}`; see `tierctl why {name} {id}`")
    })
}

async fn check_now(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: CheckNowArgs,
) -> Result<Exit, Failure> {
    let CheckNowArgs { endpoint, site, group, everyone, report_inventory, include_roaming, include_offline } =
        args;
    let one = endpoint.as_ref().map(|name| format!("endpoint `{name}`"));
    let request = v1::CheckEndpointNowRequest {
        name_or_id: endpoint.clone().unwrap_or_default(),
        site,
        group,
        everyone,
        report_inventory,
        include_roaming,
        include_offline,
    };
    let what = format!("have {} check now", one.as_deref().unwrap_or("endpoints"));
    let v1::CheckEndpointNowResponse { audit_sequence, endpoints } =
        central.check_endpoint_now(request).await.map_err(Failure::call(what))?.into_inner();
    let (sentence, told) = match endpoint {
        Some(name) => (format!("told `{name}` to check now"), ("endpoint", Value::Text(name))),
        None => (format!("told {endpoints} endpoints to check now"), ("endpoints", Value::Count(endpoints))),
    };
    changed(screen, &sentence, [told], audit_sequence)?;
    Ok(Exit::Ok)
}

#[derive(Clone, Copy, Debug)]
enum Tagging {
    Add,
    Remove,
}

async fn tag(
    screen: &mut Screen<'_>,
    central: &mut Central,
    args: TagArgs,
    how: Tagging,
) -> Result<Exit, Failure> {
    let TagArgs { endpoint, tags } = args;
    let (verb, done, add, remove) = match how {
        Tagging::Add => ("tag", "tagged", tags.clone(), Vec::new()),
        Tagging::Remove => ("untag", "untagged", Vec::new(), tags.clone()),
    };
    let request = v1::TagEndpointRequest { name_or_id: endpoint.clone(), add, remove };
    let change = central
        .tag_endpoint(request)
        .await
        .map_err(Failure::call(format!("{verb} endpoint `{endpoint}`")))?
        .into_inner();
    let sentence = format!("{done} `{endpoint}`: {}", tags.join(" "));
    let fields = [("endpoint", Value::Text(endpoint)), ("tags", Value::Names(tags))];
    changed(screen, &sentence, fields, change.audit_sequence)?;
    Ok(Exit::Ok)
}

/// Asks for a token of `role`.
pub(crate) async fn create_token(
    central: &mut Central,
    role: &'static str,
    site: String,
    groups: Vec<String>,
    use_: TokenUse,
) -> Result<v1::CreateTokenResponse, Failure> {
    let TokenUse { uses, valid, server } = use_;
    let valid_seconds = valid.as_secs();
    let name = String::new();
    let request =
        v1::CreateTokenRequest { role: role.to_owned(), site, uses, valid_seconds, server, groups, name };
    ask_for_token(central, request).await
}

pub(crate) async fn ask_for_token(
    central: &mut Central,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, Failure> {
    let what = format!("make {} token", request.role);
    Ok(central.create_token(request).await.map_err(Failure::call(what))?.into_inner())
}

/// Where the commands of a token for a machine are run.
pub(crate) const ON_THE_MACHINE: &str = "on the new machine as root";

/// Shows a token and the commands, run as root on a new machine or by whoever `whose` says, that use it. In tables only the
/// commands go to standard output, so that they can be piped into a shell over there.
pub(crate) fn write_token(
    screen: &mut Screen<'_>,
    token: v1::CreateTokenResponse,
    whose: &str,
    commands: &[String],
) -> Result<(), Failure> {
    let v1::CreateTokenResponse { token, expires, audit_sequence } = token;
    if matches!(screen.options.output, Format::Table | Format::Wide) {
        let until = Value::Time(expires).long();
        let number = if commands.len() == 1 { "this" } else { "these" };
        screen.note(&format!(
            "run {number} {whose}; the token is valid until {until} (audit {audit_sequence})"
        ))?;
        for command in commands {
            writeln!(screen.out, "{}", harmless(command))?;
        }
        screen.out.flush()?;
        return Ok(());
    }
    Sheet::new([
        ("token", Value::Text(token)),
        ("expires", Value::Time(expires)),
        ("audit_sequence", Value::Number(audit_sequence)),
        ("commands", Value::Json(serde_json::json!(commands))),
    ])
    .write(screen)
}

async fn token(screen: &mut Screen<'_>, central: &mut Central, args: TokenArgs) -> Result<Exit, Failure> {
    let TokenArgs { site, groups, use_ } = args;
    let token = create_token(central, "endpoint", site, groups, use_).await?;
    let commands = [
        format!("tierway-endpoint enroll {}", token.token),
        "systemctl enable --now tierway-endpoint".to_owned(),
    ];
    write_token(screen, token, ON_THE_MACHINE, &commands)?;
    Ok(Exit::Ok)
}

async fn revoke(screen: &mut Screen<'_>, central: &mut Central, args: RevokeArgs) -> Result<Exit, Failure> {
    let RevokeArgs { endpoint, reason, confirm: asked } = args;
    confirm(screen, asked, &format!("revoke endpoint `{endpoint}`"), &endpoint)?;
    let change = central
        .revoke_endpoint(v1::RevokeEndpointRequest { name_or_id: endpoint.clone(), reason })
        .await
        .map_err(Failure::call(format!("revoke endpoint `{endpoint}`")))?
        .into_inner();
    let sentence = format!("revoked endpoint `{endpoint}`");
    changed(screen, &sentence, [("endpoint", Value::Text(endpoint))], change.audit_sequence)?;
    Ok(Exit::Ok)
}
