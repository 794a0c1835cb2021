//! From a command line to the requests central gets, the text that is printed, and the exit code.

mod fake;
mod fake_packages;
mod fake_policies;

use std::{io::Cursor, path::Path};

use jiff::{SignedDuration, Timestamp};
use tierway_central::{
    enroll::ca::{self, Authority, requested_key},
    policy::documents::{Document, Kind},
};
use tierway_common::{
    clock::Clock,
    daemon::stop::Stop,
    enrollment::Applicant,
    facts::Facts,
    rules::explain::explain_update,
    schema::Update,
    transport::{
        accept,
        identity::{Holder, Role},
        tls::{Identity, IdentityFiles},
    },
};
use tierway_proto::v1::{self, admin_server::AdminServer};

use self::fake::{Fake, NOW_MS};
use crate::{
    cli,
    contexts::Contexts,
    environment::Environment,
    failure::Failure,
    screen::{Screen, Terminals},
};

/// What came of a command line.
#[derive(Debug)]
struct Ran {
    exit: u8,
    out: String,
    err: String,
    asked: Vec<String>,
}

/// A person at a terminal, or a program.
#[derive(Clone, Copy, Default)]
struct Caller {
    terminals: Terminals,
    input: &'static str,
    colour: bool,
}

async fn run_with(fake: &Fake, caller: Caller, args: &str) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = Cursor::new(caller.input);
    let clock = Clock::manual(Timestamp::from_millisecond(NOW_MS).unwrap());
    let mut screen = Screen::new(&mut out, &mut err, &mut input, caller.terminals, caller.colour, clock);
    let words = std::iter::once("tierctl").chain(args.split_whitespace());
    let exit =
        cli::run(words, &mut screen, &Environment::default(), async |_| Ok::<_, Failure>(fake.serve().await))
            .await;
    let asked = fake.asked.lock().unwrap().clone();
    Ran {
        exit: exit.code(),
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
        asked,
    }
}

/// The explanation that the fake gives: an update of three packages, of which one is too old and one is not
/// there.
fn explanation(endpoint: String, patch: String) -> v1::WhyResponse {
    let update: Update = serde_json::from_str(
        r#"{"id":"debian-12/openssl_3.0.17-1","title":"openssl","product":"openssl","version":"3.0.17-1",
        "severity":"critical","released":"2026-09-01T00:00:00Z","applicable":{"all":[
        {"os":{"family":"debian","codename":"bookworm"}},
        {"any":[{"package":{"manager":"deb","name":"libssl3"}},{"package":{"manager":"deb","name":"openssl"}}]}]},
        "installed":{"all":[
        {"not":{"package":{"manager":"deb","name":"libssl3","version":{"lt":"3.0.17-1"}}}},
        {"not":{"package":{"manager":"deb","name":"openssl","version":{"lt":"3.0.17-1"}}}}]},
        "install":{"deb":{"packages":[]}}}"#,
    )
    .unwrap();
    let facts: Facts = serde_json::from_str(
        r#"{"domains":{"os":{"complete":{"source":"/etc/os-release"}},
        "package:deb":{"complete":{"source":"/var/lib/dpkg/status"}}},
        "values":{"os:family":"debian","os:codename":"bookworm","package:deb:libssl3:amd64":"3.0.16-1"}}"#,
    )
    .unwrap();
    let explained = explain_update(&update, &facts);
    v1::WhyResponse {
        endpoint,
        patch,
        verdict: "needed".into(),
        reported_state: "needed".into(),
        reported_at: NOW_MS - 720_000,
        applicable_json: serde_json::to_string(&explained.applicable).unwrap(),
        installed_json: serde_json::to_string(&explained.installed.unwrap()).unwrap(),
        summary: "libssl3 3.0.16-1 is older than 3.0.17-1".into(),
        approval: "approved for group `everyone` by operator:ana".into(),
        would_change: explained.would_change,
        facts_at: NOW_MS - 780_000,
        times: Some(v1::PatchTimes {
            detected: NOW_MS - 18_000_000,
            authorized: NOW_MS - 12_000_000,
            applied: 0,
        }),
    }
}

/// Command lines and what comes of them: `$` a command line, `>` a request that central gets, `|` a line of
/// standard output, `!` one of standard error, `=` the exit code where it is not 0.
const ANSWERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/tierctl/tests/answers.txt");

fn transcript(args: &str, ran: &Ran) -> String {
    let mut text = format!("$ tierctl {args}\n");
    let mut add = |mark: &str, lines: &str| {
        for line in lines.lines() {
            text.push_str(format!("{mark} {line}").trim_end());
            text.push('\n');
        }
    };
    add(">", &ran.asked.join("\n"));
    add("|", &ran.out);
    add("!", &ran.err);
    if ran.exit != 0 {
        add("=", &ran.exit.to_string());
    }
    text
}

/// With `UPDATE=1` the file is written anew; read the difference before you keep it.
#[tokio::test]
async fn each_command_line_has_the_answer_in_the_file() {
    let expected = std::fs::read_to_string(ANSWERS).unwrap();
    let (comment, cases) = expected.split_once("\n\n").unwrap();
    let mut found = vec![comment.to_owned() + "\n"];
    for case in cases.split("\n\n") {
        let args = case.lines().next().unwrap().strip_prefix("$ tierctl ").unwrap();
        let ran = run_with(&Fake::default(), Caller::default(), args).await;
        found.push(transcript(args, &ran));
    }
    let found = found.join("\n");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(ANSWERS, &found).unwrap();
        return;
    }
    for (found, expected) in found.split("\n\n").zip(expected.split("\n\n")) {
        assert_eq!(found.trim_end(), expected.trim_end(), "\n{found}\n");
    }
}

fn at_terminal(input: &'static str) -> Caller {
    Caller { terminals: Terminals { input: true, out: true, err: true }, input, colour: true }
}

#[tokio::test]
async fn a_revocation_goes_on_only_when_the_name_is_typed_again() {
    for (input, exit, asked) in [("web-01\n", 0, 1), ("web-02\n", 1, 0), ("", 1, 0), ("yes\n", 1, 0)] {
        let ran = run_with(&Fake::default(), at_terminal(input), "endpoint revoke web-01").await;
        assert_eq!((ran.exit, ran.asked.len()), (exit, asked), "{input:?}: {ran:?}");
        assert!(
            ran.err.starts_with("This will revoke endpoint `web-01`. Type the name to go on: "),
            "{ran:?}"
        );
    }
}

#[tokio::test]
async fn colours_are_only_for_terminals() {
    let at = |colour, out| Caller {
        terminals: Terminals { out, ..Terminals::default() },
        colour,
        ..Caller::default()
    };
    for (colour, out, coloured) in
        [(true, true, true), (true, false, false), (false, true, false), (false, false, false)]
    {
        let ran = run_with(&Fake::default(), at(colour, out), "status").await;
        assert_eq!(ran.out.contains('\x1b'), coloured, "colour {colour}, terminal {out}");
    }
}

#[tokio::test]
async fn status_says_by_its_exit_code_what_a_script_must_know() {
    const DAY: i64 = 86_400_000;
    for (change, args, exit, said) in [
        (None, "status --fail-under 94.8", 0, ""),
        (None, "status --fail-under 94.9", 3, "tierctl: 94.8 % of endpoints comply, below 94.9 %\n"),
        (
            Some(v1::FleetStatus { assessed: 0, compliant: 0, ..fake::status() }),
            "status --fail-under 1%",
            3,
            "tierctl: no endpoint has been assessed, below 1 %\n",
        ),
        (
            Some(v1::FleetStatus { dictionary_at: NOW_MS - 3 * DAY, ..fake::status() }),
            "status --fail-under 90",
            4,
            "tierctl: the dictionary is 3d old and has expired\n",
        ),
        (
            Some(v1::FleetStatus { lost: 100, ..fake::status() }),
            "status -o json",
            4,
            "tierctl: 140 of 2,400 endpoints have not reported within their check interval\n",
        ),
    ] {
        let fake = Fake::default();
        *fake.status.lock().unwrap() = change;
        let ran = run_with(&fake, Caller::default(), args).await;
        assert_eq!((ran.exit, ran.err.as_str()), (exit, said), "{args}");
        assert!(
            ran.out.contains("2,400 endpoints") || ran.out.contains("\"endpoints\": 2400"),
            "{}",
            ran.out
        );
    }
}

#[tokio::test]
async fn a_broken_audit_log_is_a_failure() {
    let fake = Fake { broken_at: Some("record 17 does not match its digest".into()), ..Fake::default() };
    let ran = run_with(&fake, Caller::default(), "audit verify").await;
    assert_eq!(
        (ran.exit, ran.out.as_str()),
        (1, "the audit log is broken: record 17 does not match its digest\n")
    );
}

#[tokio::test]
async fn all_audit_records_come_once_and_in_order_over_several_pages() {
    let ran = run_with(
        &Fake::default(),
        Caller::default(),
        "audit list --limit 0 -o csv --columns sequence --no-header",
    )
    .await;
    let expected: String = (1..=1_500).rev().map(|sequence| format!("{sequence}\n")).collect();
    assert_eq!((ran.exit, ran.out), (0, expected));
}

#[tokio::test]
async fn every_endpoint_of_a_patch_is_listed_in_every_format_and_not_only_the_first_thousand() {
    for (format, expected) in [
        ("table", |number: u32| format!("web-{number:02}")),
        ("csv", |number| format!("web-{number:02}")),
        ("jsonl", |number| format!("{{\"name\":\"web-{number:02}\"}}")),
        ("json", |number| {
            let end = if number == 2_500 { "" } else { "," };
            format!("{{\"name\":\"web-{number:02}\"}}{end}")
        }),
    ] as [(&str, fn(u32) -> String); 4]
    {
        let args = format!("patch endpoints everywhere -o {format} --columns name --no-header");
        let ran = run_with(&Fake::default(), Caller::default(), &args).await;
        assert_eq!((ran.exit, ran.asked.len()), (0, 2), "{}", ran.err);
        let lines: Vec<_> =
            ran.out.lines().map(str::trim).filter(|line| !["[", "]"].contains(line)).collect();
        assert_eq!(lines, (1..=2_500).map(expected).collect::<Vec<_>>(), "{format}");
    }
}

#[tokio::test]
async fn the_rest_of_a_list_is_asked_for_anew_when_its_stream_breaks_and_one_without_any_part_is_a_failure() {
    let list = async |patch: &str| {
        let args = format!("patch endpoints {patch} -o csv --columns name --no-header");
        run_with(&Fake::default(), Caller::default(), &args).await
    };
    let torn = list("torn").await;
    let all: String = (1..=2_500).map(|number| format!("web-{number:02}\n")).collect();
    assert_eq!((torn.exit, torn.out, torn.err.as_str()), (0, all, ""));
    let asked: Vec<bool> = torn.asked.iter().map(|request| request.contains("2000:web-2000")).collect();
    assert_eq!(asked, [false, true], "{:?}", torn.asked);
    for (patch, said) in [
        ("closed", "tierctl: could not list the endpoints of patch `closed`: central is stopping\n"),
        (
            "silent",
            "tierctl: could not list the endpoints of patch `silent`: central answered with no part of it\n",
        ),
    ] {
        let ran = list(patch).await;
        assert_eq!((ran.exit, ran.out.as_str(), ran.err.as_str(), ran.asked.len()), (1, "", said, 1));
    }
}

#[tokio::test]
async fn a_group_in_a_later_part_of_the_list_is_listed_and_found() {
    let ran = run_with(&Fake::default(), Caller::default(), "group list -o csv --columns name").await;
    assert_eq!((ran.exit, ran.out.as_str(), ran.asked.len()), (0, "name\neveryone\nweb\n", 2));
    let ran = run_with(&Fake::default(), Caller::default(), "group show web -o csv").await;
    assert_eq!((ran.exit, ran.asked.len()), (0, 1), "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn watching_repeats_the_answer_until_it_fails() {
    for (caller, between) in [(Caller::default(), "\nFLEET"), (at_terminal(""), "\x1b[H\x1b[2J")] {
        let fake = Fake { status_answers: 3, ..Fake::default() };
        let begun = tokio::time::Instant::now();
        let ran = run_with(&fake, caller, "status --watch 60").await;
        assert_eq!((ran.exit, ran.asked.len()), (1, 4), "{ran:?}");
        assert_eq!(ran.err, "tierctl: could not get the status: central is stopping\n");
        assert_eq!(ran.out.matches("2,400 endpoints").count(), 3);
        assert!(ran.out.contains(between), "{ran:?}");
        assert_eq!(begun.elapsed().as_secs(), 180);
    }
}

/// A pipe whose reader has gone, as with `| head`.
struct Closed;

impl std::io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let (mut err, mut input) = (Vec::new(), Cursor::new(""));
    let mut closed = Closed;
    let clock = Clock::manual(Timestamp::from_millisecond(NOW_MS).unwrap());
    let mut screen = Screen::new(&mut closed, &mut err, &mut input, Terminals::default(), false, clock);
    let fake = Fake::default();
    let exit = cli::run(["tierctl", "endpoint", "list"], &mut screen, &Environment::default(), async |_| {
        Ok(fake.serve().await)
    })
    .await;
    assert_eq!((exit.code(), err.len()), (0, 0));
}

#[tokio::test]
async fn contexts_are_set_chosen_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("contexts.toml");
    let run = async |args: &str| {
        let args = args.replace("FILE", file.to_str().unwrap());
        let ran = run_with(&Fake::default(), Caller::default(), &args).await;
        (ran.exit, ran.out + &ran.err)
    };
    std::fs::write(&file, "[[context]]\nname = \"a\"\nport = 1\n").unwrap();
    let (exit, said) = run("context show --config FILE").await;
    assert!(exit == 1 && said.lines().count() == 1 && !said.contains('\u{fffd}'), "{said}");
    assert!(said.contains("line 3, column 1") && said.contains("unknown field `port`"), "{said}");
    std::fs::remove_file(&file).unwrap();

    let set = "--identity /op/id.pem --roots /op/roots.pem --config FILE";
    assert_eq!(
        run("context show --config FILE").await,
        (2, "tierctl: no context is chosen; name one\n".into())
    );
    assert_eq!(run(&format!("context set a --server a:1 {set}")).await.0, 0);
    assert_eq!(run(&format!("context set b --server b:2 {set}")).await.0, 0);
    assert_eq!(
        run("context use b --config FILE").await,
        (0, "now using context `b`, central at b:2\n".into())
    );
    assert_eq!(
        run("context list --config FILE").await,
        (0, "CURRENT  NAME  SERVER\nno       a     a:1\nyes      b     b:2\n".into())
    );
    let (exit, shown) = run("context show a -o jsonl --config FILE").await;
    assert_eq!(exit, 0);
    assert!(
        shown.starts_with(r#"{"name":"a","server":"a:1","proxy":"","identity":"/op/id.pem","roots""#),
        "{shown}"
    );
    let (exit, said) = run("context use c --config FILE").await;
    assert_eq!(exit, 2);
    assert!(said.ends_with("known: a, b\n"), "{said}");
}

#[tokio::test]
async fn a_context_is_deleted_with_the_keys_that_joining_made_and_with_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("contexts.toml");
    let run = async |args: &str| {
        let args = args.replace("DIR", dir.path().to_str().unwrap());
        let ran = run_with(&Fake::default(), Caller::default(), &args).await;
        (ran.exit, ran.out + &ran.err)
    };
    for name in ["joined", "other"] {
        let identity = dir.path().join(name).join("identity");
        std::fs::create_dir_all(&identity).unwrap();
        std::fs::write(identity.join("identity.pem"), "key").unwrap();
    }
    let set = |name: &str, keys: &str| {
        format!(
            "context set {name} --server a:1 --config DIR/contexts.toml --identity DIR/{keys}/identity/identity.pem --roots DIR/roots.pem"
        )
    };
    assert_eq!(run(&set("joined", "joined")).await.0, 0);
    assert_eq!(run(&set("set", "other")).await.0, 0);
    let (exit, said) = run("context delete joined --config DIR/contexts.toml").await;
    assert!(exit == 2 && said.contains("--yes") && dir.path().join("joined/identity").exists(), "{said}");
    let (exit, said) = run("context delete joined --yes --config DIR/contexts.toml").await;
    assert!(exit == 0 && said.starts_with("deleted context `joined` and its keys in `"), "{said}");
    assert!(!dir.path().join("joined/identity").exists());
    assert_eq!(
        run("context delete set --yes --config DIR/contexts.toml").await,
        (0, "deleted context `set`\n".into())
    );
    assert!(dir.path().join("other/identity/identity.pem").exists());
    let contexts: Contexts = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(contexts, Contexts::default());
    assert_eq!(run("context delete set --yes --config DIR/contexts.toml").await.0, 2);
}

#[tokio::test]
async fn a_rule_file_that_is_no_rule_never_reaches_central() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rule.json");
    let args = format!("group set debian --rule {}", file.display());
    std::fs::write(&file, r#"{"os": {"familly": "debian"}}"#).unwrap();
    let ran = run_with(&Fake::default(), Caller::default(), &args).await;
    assert_eq!((ran.exit, ran.asked.len()), (1, 0), "{ran:?}");
    assert!(ran.err.contains("rule.json") && ran.err.contains("familly"), "{}", ran.err);

    std::fs::write(&file, r#"{ "os": {"family": "debian"} }"#).unwrap();
    let ran = run_with(&Fake::default(), Caller::default(), &args).await;
    assert_eq!(ran.exit, 0, "{ran:?}");
    assert!(
        ran.asked[1].contains(r#"rule_json: Some("{\"os\":{\"family\":\"debian\"}}")"#),
        "{:?}",
        ran.asked
    );
}

/// The folder that is shipped as an example of policy.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/policy");

#[tokio::test]
async fn the_sample_of_policy_is_what_central_takes() {
    let now = Timestamp::from_millisecond(NOW_MS).unwrap();
    let mut names = Vec::new();
    let mut missing = Vec::new();
    for v1::NewPolicy { kind, json } in crate::apply::read(Path::new(SAMPLE)).unwrap() {
        let of = Kind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap();
        let document = Document::read(of, &json).unwrap_or_else(|error| panic!("{json}: {error}"));
        document.check(now).unwrap_or_else(|error| panic!("{json}: {error}"));
        missing.extend(document.references().into_iter().map(|reference| format!("{reference:?}")));
        names.push(format!("{kind}/{}", document.name()));
    }
    let expected =
        ["level/office", "level/servers", "level/test", "window/second-saturday", "ring-plan/careful"];
    assert_eq!(names, expected);
    assert_eq!(missing, [r#"Window(WindowId("second-saturday"))"#], "it names nothing that is not in it");

    let args = format!("apply -f {SAMPLE} --dry-run");
    let ran = run_with(&Fake::default(), Caller::default(), &args).await;
    assert_eq!((ran.exit, ran.err.as_str()), (0, "tierctl: 5 of 5 would change\n"), "{ran:?}");
    assert!(ran.asked[0].ends_with("dry_run: true }"), "{:?}", ran.asked);
    let file = format!("{SAMPLE}/window/second-saturday.toml");
    let ran = run_with(&Fake::default(), Caller::default(), &format!("window check -f {file}")).await;
    let shown = ["Sun 2026-09-27 02:00 CEST", "Sat 2026-10-17 22:00 CEST", "Sat 2026-11-14 22:00 CET"];
    let lines: Vec<&str> = ran.out.lines().skip(1).take(3).map(|line| &line[..shown[0].len()]).collect();
    assert_eq!(lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), shown, "{ran:?}");
}

#[tokio::test]
async fn a_folder_or_file_that_is_no_policy_never_reaches_central() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("polices");
    let ran = run_with(&Fake::default(), Caller::default(), &format!("apply -f {}", absent.display())).await;
    assert_eq!((ran.exit, ran.asked.len()), (1, 0), "{ran:?}");
    let said = format!("tierctl: could not read the folder `{}`: ", absent.display());
    assert!(ran.err.starts_with(&said), "{}", ran.err);

    let level = dir.path().join("level");
    std::fs::create_dir(&level).unwrap();
    let apply = format!("apply -f {}", dir.path().display());
    let ran = run_with(&Fake::default(), Caller::default(), &apply).await;
    assert_eq!((ran.exit, ran.asked.len()), (2, 0), "{ran:?}");
    assert!(ran.err.ends_with("holds no policy document\n"), "{}", ran.err);

    std::fs::write(level.join("office.toml"), "id = \"home\"\n").unwrap();
    let ran = run_with(&Fake::default(), Caller::default(), &apply).await;
    assert_eq!((ran.exit, ran.asked.len()), (2, 0), "{ran:?}");
    assert!(ran.err.contains(r#"is about service level "home", not about `office`"#), "{}", ran.err);

    let file = dir.path().join("night.toml");
    std::fs::write(&file, "length = \"2h\"\nopens = [{ on = { day = 31 }, at = 02:00:00, months = [2] }]\n")
        .unwrap();
    let check = format!("window check -f {}", file.display());
    let ran = run_with(&Fake::default(), Caller::default(), &check).await;
    assert_eq!((ran.exit, ran.asked.len()), (1, 0), "{ran:?}");
    assert!(ran.err.contains("night.toml` is no window: "), "{}", ran.err);
}

#[tokio::test]
async fn completions_and_manual_pages_know_every_noun() {
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef tierctl"), ("fish", "complete -c tierctl")]
    {
        let ran = run_with(&Fake::default(), Caller::default(), &format!("completions {shell}")).await;
        assert_eq!(ran.exit, 0);
        assert!(ran.out.contains(sign) && ran.out.contains("audit"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let ran = run_with(&Fake::default(), Caller::default(), &format!("man {}", dir.path().display())).await;
    assert_eq!(ran.exit, 0);
    for page in ["tierctl.1", "tierctl-status.1", "tierctl-policy-auto-set.1", "tierctl-audit-verify.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}

#[test]
fn the_command_line_is_declared_without_contradictions() {
    <cli::Arguments as clap::CommandFactory>::command().debug_assert();
}

/// An identity of `role` in `dir`, signed by `authority`.
fn identity(authority: &Authority, role: Role, dir: &Path) -> IdentityFiles {
    let applicant = Applicant::new().unwrap();
    let holder = Holder {
        tenant: "default".parse().unwrap(),
        site: "default".parse().unwrap(),
        role,
        id: "ana".to_owned(),
    };
    let now = Clock::system().now();
    let key = requested_key(applicant.csr_der()).unwrap();
    let issued = authority.issue(&holder, key, now, &ring::rand::SystemRandom::new()).unwrap();
    applicant.keep(&issued.chain, dir).unwrap()
}

fn authority() -> Authority {
    let random = ring::rand::SystemRandom::new();
    let (root, issuing) = ca::create(Clock::system().now(), &random).unwrap();
    Authority::open(&root.certificate_pem, &issuing).unwrap()
}

#[tokio::test]
async fn a_context_leads_to_central_over_tls_and_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority(), authority());
    let central = identity(&ours, Role::Central, &dir.path().join("central"));
    identity(&ours, Role::Operator, &dir.path().join("ana"));
    identity(&theirs, Role::Operator, &dir.path().join("eve"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let fake = Fake::default();
    let stop = Stop::new();
    let serving = tokio::spawn(accept::serve(
        listener,
        Identity::load(&central).unwrap(),
        AdminServer::new(fake.clone()),
        accept::Limits::default(),
        accept::Gauge::default(),
        stop.clone(),
    ));
    let file = dir.path().join("contexts.toml");
    let context = |name: &str, server: &str, identity: &str| {
        format!(
            "[[context]]\nname = \"{name}\"\nserver = \"{server}\"\nidentity = \"{identity}/identity.pem\"\n\
             roots = \"{identity}/roots.pem\"\n"
        )
    };
    let contexts = [
        context("ana", &address.to_string(), "ana"),
        context("eve", &address.to_string(), "eve"),
        context("gone", &gone.to_string(), "ana"),
        context("lost", &address.to_string(), "nowhere"),
    ];
    std::fs::write(&file, contexts.concat()).unwrap();
    let late = "the certificate of context `ana`, good until";
    for (name, days, exit, said) in [
        ("ana", 0, 0, vec![]),
        // What this central does not do, renew, is said and is no obstacle.
        ("ana", 150, 0, vec![late, "stays as it is"]),
        (
            "eve",
            0,
            1,
            vec!["could not list tasks: ", &format!("no TLS with `{address}`"), "invalid peer certificate"],
        ),
        ("gone", 0, 1, vec!["could not list tasks: ", &format!("could not connect to `{gone}`"), "refused"]),
        ("lost", 0, 1, vec!["could not use the identity of context `lost`: ", "nowhere/identity.pem"]),
    ] {
        let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), Cursor::new(""));
        let mut screen =
            Screen::new(&mut out, &mut err, &mut input, Terminals::default(), false, Clock::system());
        let environment = Environment::default();
        let args = ["tierctl", "task", "list", "--context", name, "--config", file.to_str().unwrap()];
        let now = Clock::system().now() + SignedDuration::from_hours(24 * days);
        let mut renewal = Vec::new();
        let found = cli::run(args, &mut screen, &environment, async |connection| {
            crate::client::dial(connection, &environment, now, &mut renewal).await
        })
        .await;
        let (out, err) =
            (String::from_utf8(out).unwrap(), String::from_utf8([renewal, err].concat()).unwrap());
        assert_eq!(err.contains(late), days > 0, "{err}");
        assert_eq!((found.code(), out.contains("publish")), (exit, exit == 0), "{name}: {err}");
        assert!(said.iter().all(|part| err.contains(part)), "{name}: {err}");
    }
    assert_eq!(fake.asked.lock().unwrap().len(), 2);
    stop.request();
    serving.await.unwrap();
}
