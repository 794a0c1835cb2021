//! The command line: which nouns there are, and from arguments to an exit code.

use std::ffi::OsString;

use clap::{Parser, Subcommand, error::ErrorKind};
use tierway_proto::{
    OPERATOR_ANSWER_BYTES_MAX,
    v1::{admin_client::AdminClient, packages_client::PackagesClient, policies_client::PoliciesClient},
};
use tonic::transport::Channel;

use crate::{
    apply, audit, client, context,
    contexts::ConnectionArgs,
    endpoint,
    environment::Environment,
    failure::{Exit, Failure},
    group, level, operator,
    output::OutputArgs,
    package, patch, plan, policy, relay, report, result_code, ring, rollout,
    screen::Screen,
    shell, simulate, source, status, task, template, trust, why, window,
};

const AFTER_HELP: &str = "\
Examples:
  tierctl status --fail-under 95                  how the fleet stands; exit code 3 below 95 %
  tierctl why web-01 debian-12/openssl_3.0.17-1   why it is needed there, or not
  tierctl patch list --state needed               what is missing somewhere
  tierctl patch approve --all-needed              have it installed
  tierctl relay invite osaka                      two commands for a new site

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 below --fail-under, 4 answered from stale or partial
knowledge, 5 denied, 6 the plan has drifted.";

/// Asks and tells a Tierway central
#[derive(Debug, Parser)]
#[command(name = "tierctl", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// How the fleet stands, on one screen
    Status(status::StatusArgs),
    /// Why a patch is needed, installed or neither on an endpoint
    Why(why::WhyArgs),
    /// Computers that are patched
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Updates, and whether they may be installed
    #[command(subcommand)]
    Patch(patch::PatchCommand),
    /// Packages of your own, from files
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Relays, one or more for each site
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// Who decides
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Endpoints that are treated alike
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// When, how and with whose consent updates are installed
    #[command(subcommand)]
    Level(level::LevelCommand),
    /// When computers may be changed and go down
    #[command(subcommand)]
    Window(window::WindowCommand),
    /// Plans by which an update spreads ring after ring
    #[command(subcommand)]
    Ring(ring::RingCommand),
    /// Updates on their way through a ring plan
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Which updates have proven themselves
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// What exit codes of installers mean
    #[command(subcommand)]
    ResultCode(result_code::ResultCodeCommand),
    /// Computers that others shall be like
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Sets every policy document of a folder, all or none; or has exactly that done which a plan says
    Apply(apply::ApplyArgs),
    /// What is decided without asking
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// What would come of a decision, before it is made
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Figures about the fleet over time
    #[command(subcommand)]
    Report(report::ReportCommand),
    /// Where updates come from
    #[command(subcommand)]
    Source(source::SourceCommand),
    /// Central's background work
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// What operators did
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Which central, and as whom
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Runs a large simulated fleet on this machine, and prints what it took
    Simulate(simulate::SimulateArgs),
    /// Prints the completion script of a shell
    Completions(shell::CompletionsArgs),
    /// Writes the manual pages into a directory
    Man(shell::ManArgs),
}

/// Runs one command line. `dial` makes the connection when the command needs one.
pub(crate) async fn run<A: Into<OsString> + Clone>(
    args: impl IntoIterator<Item = A>,
    screen: &mut Screen<'_>,
    environment: &Environment,
    dial: impl AsyncFnOnce(&ConnectionArgs) -> Result<Channel, Failure>,
) -> Exit {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(screen, &error),
    };
    screen.options = arguments.output.clone();
    match dispatch(arguments, screen, environment, dial).await {
        Ok(exit) => exit,
        Err(failure) => {
            screen.out.flush().ok();
            screen.fail(&failure)
        }
    }
}

async fn dispatch(
    arguments: Arguments,
    screen: &mut Screen<'_>,
    environment: &Environment,
    dial: impl AsyncFnOnce(&ConnectionArgs) -> Result<Channel, Failure>,
) -> Result<Exit, Failure> {
    let Arguments { output: _, connection, noun } = arguments;
    let connect = async || dial(&connection).await;
    match noun {
        Noun::Context(command) => context::run(screen, &connection, environment, command).await,
        Noun::Completions(args) => shell::completions(screen, args),
        Noun::Man(args) => shell::man(screen, &args),
        Noun::Simulate(args) => simulate::run(environment, args),
        Noun::Status(args) => status::run(screen, &mut admin(connect().await?), args).await,
        Noun::Why(args) => why::run(screen, &mut admin(connect().await?), args).await,
        Noun::Endpoint(command) => endpoint::run(screen, &mut admin(connect().await?), command).await,
        Noun::Patch(command) => patch::run(screen, &mut admin(connect().await?), command).await,
        Noun::Package(command) => package::run(screen, &mut packages(connect().await?), command).await,
        Noun::Relay(command) => relay::run(screen, &mut admin(connect().await?), command).await,
        Noun::Operator(command) => operator::run(screen, &mut admin(connect().await?), command).await,
        Noun::Group(command) => group::run(screen, &mut admin(connect().await?), command).await,
        Noun::Level(command) => level::run(screen, &mut policies(connect().await?), command).await,
        Noun::Window(window::WindowCommand::Check { file, when }) => window::check(screen, &file, &when),
        Noun::Window(window::WindowCommand::Leases(args)) => {
            window::leases(screen, &mut admin(connect().await?), args).await
        }
        Noun::Window(window::WindowCommand::Document(command)) => {
            window::run(screen, &mut policies(connect().await?), command).await
        }
        Noun::Ring(command) => ring::run(screen, &mut policies(connect().await?), command).await,
        Noun::Rollout(command) => rollout::run(screen, &mut policies(connect().await?), command).await,
        Noun::Trust(command) => trust::run(screen, &mut policies(connect().await?), command).await,
        Noun::ResultCode(command) => result_code::run(screen, &mut policies(connect().await?), command).await,
        Noun::Template(command) => template::run(screen, &mut policies(connect().await?), command).await,
        Noun::Plan(command) => plan::run(screen, &mut admin(connect().await?), command).await,
        Noun::Apply(apply::ApplyArgs { plan: Some(plan), .. }) => {
            plan::apply(screen, &mut admin(connect().await?), plan).await
        }
        Noun::Apply(args) => apply::run(screen, &mut policies(connect().await?), args).await,
        Noun::Policy(command) => policy::run(screen, &mut admin(connect().await?), command).await,
        Noun::Report(command) => report::run(screen, &mut admin(connect().await?), command).await,
        Noun::Source(command) => source::run(screen, &mut admin(connect().await?), command).await,
        Noun::Task(command) => task::run(screen, &mut admin(connect().await?), command).await,
        Noun::Audit(command) => audit::run(screen, &mut admin(connect().await?), command).await,
    }
}

fn admin(channel: Channel) -> client::Central {
    AdminClient::new(channel).max_decoding_message_size(OPERATOR_ANSWER_BYTES_MAX)
}

fn packages(channel: Channel) -> client::Packages {
    PackagesClient::new(channel).max_decoding_message_size(OPERATOR_ANSWER_BYTES_MAX)
}

fn policies(channel: Channel) -> client::Policies {
    PoliciesClient::new(channel).max_decoding_message_size(OPERATOR_ANSWER_BYTES_MAX)
}

/// Help and version go to standard output and are no failure; the rest is wrong usage.
fn unparsed(screen: &mut Screen<'_>, error: &clap::Error) -> Exit {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let colours = screen.colour && if asked_for { screen.terminals.out } else { screen.terminals.err };
    let text = if colours { error.render().ansi().to_string() } else { error.render().to_string() };
    let stream = if asked_for { &mut *screen.out } else { &mut *screen.err };
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        _ if !asked_for => Exit::Usage,
        Ok(()) => Exit::Ok,
        Err(error) => screen.fail(&Failure::Write(error)),
    }
}
