//! The command line as it is typed.

use clap::error::ErrorKind;
use tollgate_client::ClientError;

use super::*;

mod live;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn visit(command: &clap::Command, path: &str, look: &mut impl FnMut(&str, &clap::Command)) {
    look(path, command);
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        visit(inner, &format!("{path} {}", inner.get_name()), look);
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_a_description_and_an_example_of_itself() {
    visit(&Cli::command(), "tollgate", &mut |path, command| {
        let help = command.clone().render_help().to_string();
        assert!(command.get_about().is_some(), "{path} says what it does");
        assert!(help.contains("Example"), "{path} has an example:\n{help}");
        assert!(help.contains(&format!("  {path}")), "the example of {path} is one of it:\n{help}");
    });
}

#[test]
fn every_example_parses() {
    let mut examples = 0;
    visit(&Cli::command(), "tollgate", &mut |path, command| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n", "");
        for line in help.lines().filter_map(|line| line.strip_prefix("  tollgate ")) {
            for one in line.split(" && tollgate ") {
                let typed = one.split(" > ").next().unwrap_or(one);
                parse(&format!("tollgate {typed}"))
                    .unwrap_or_else(|error| panic!("example of {path}: {typed}\n{error}"));
                examples += 1;
            }
        }
    });
    assert!(examples > 25, "{examples} examples were tried");
}

#[test]
fn what_cannot_be_meant_is_refused_with_exit_code_2() {
    for line in [
        "tollgate nonsense",
        "tollgate tenant create Demo",
        "tollgate tenant create",
        "tollgate project create main",
        "tollgate key create --tenant demo --scopes chat,admin",
        "tollgate key create --tenant demo --requests-per-minute 0",
        "tollgate key create --tenant demo --expires-at tomorrow",
        "tollgate budget set --tenant demo --window year --cap-usd 1",
        "tollgate budget set --tenant demo --window day --cap-usd -1",
        "tollgate budget set --tenant demo --window day --cap-usd 1e3",
        "tollgate plan set standard --tight-budget maybe",
        "tollgate usage list --limit 1001",
        "tollgate receipt show 7",
        "tollgate receipt verify receipt.json",
        "tollgate ledger verify --dir a --config b",
        "tollgate completion csh",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    assert_eq!(parse("tollgate --version").expect_err("shown").kind(), ErrorKind::DisplayVersion);
}

#[test]
fn json_may_be_asked_for_anywhere() {
    for line in ["tollgate --json tenant list", "tollgate tenant --json list", "tollgate tenant list --json"] {
        assert!(parse(line).expect(line).json, "{line}");
    }
    assert!(!parse("tollgate tenant list").expect("fine").json);
}

#[test]
fn the_admin_key_is_shown_nowhere() {
    let cli = parse("tollgate tenant list --admin-key verysecret").expect("fine");
    assert!(!format!("{cli:?}").contains("verysecret"));
    let help = Cli::command().find_subcommand_mut("tenant").expect("there").render_long_help().to_string();
    assert!(help.contains("TOLLGATE_ADMIN_KEY") && !help.contains("TOLLGATE_ADMIN_KEY="), "{help}");
}

#[test]
fn failures_tell_what_to_do_and_map_to_their_exit_codes() {
    let unreachable =
        |refused| ClientError::Unreachable { url: "http://127.0.0.1:1".into(), reason: "why".into(), refused };
    let refused = |status, message: &str| ClientError::Refused {
        status,
        code: None,
        message: message.into(),
        param: (status == 400).then(|| "cap_usd".to_owned()),
    };
    let check = |error: ClientError, part: &str, code: u8| {
        let failure = Failure::from(error);
        assert!(failure.to_string().contains(part), "{failure}");
        assert_eq!(format!("{:?}", failure.exit_code()), format!("{:?}", ExitCode::from(code)), "{failure}");
    };
    check(unreachable(true), "is `tollgate serve` running at http://127.0.0.1:1?", 1);
    check(unreachable(false), "why", 1);
    check(refused(401, "no"), "TOLLGATE_ADMIN_KEY", 1);
    check(refused(404, "there is no tenant 'x'"), "there is no tenant 'x' (404)", 1);
    check(refused(400, "not money"), "not money (cap_usd)", 2);
    check(ClientError::InvalidUrl { url: "x".into() }, "address of a gateway", 2);
    let configuration = Failure::Configuration("bad".into());
    assert_eq!(format!("{:?}", configuration.exit_code()), format!("{:?}", ExitCode::from(64)));
}

#[test]
fn no_admin_key_is_a_bad_argument_that_says_where_to_find_one() {
    let connection = Connection { url: "http://127.0.0.1:1".into(), admin_key: None, approval: None };
    let failure = connection.client().expect_err("no key");
    assert!(matches!(&failure, Failure::Arguments(said) if said.contains("TOLLGATE_ADMIN_KEY")), "{failure}");
    let missing =
        Connection { url: "http://127.0.0.1:1".into(), admin_key: "file:/nonexistent".parse().ok(), approval: None };
    assert!(missing.client().expect_err("no file").to_string().contains("/nonexistent"));
}

#[test]
fn a_key_may_lie_in_a_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("admin.key");
    tollgate_store::store::write_atomically(&path, b"tga_abc\n").expect("written");
    let admin_key = format!("file:{}", path.display()).parse().ok();
    Connection { url: "http://127.0.0.1:1".into(), admin_key, approval: None }
        .client()
        .expect("a key without its newline");
}

#[test]
fn answers_are_for_people_or_for_machines() {
    let answer = Answer::new("one", &serde_json::json!({"n": 1}));
    assert_eq!(answer.rendered(false), "one");
    assert_eq!(answer.rendered(true), "{\n  \"n\": 1\n}");
    assert_eq!(version().json["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn completion_knows_the_commands() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let script = completion(shell).rendered(true);
        assert!(script.contains("sim-provider") && script.contains("cap-usd"), "{shell}");
    }
}

#[test]
fn a_command_that_needs_a_gateway_says_so_when_there_is_none() {
    let cli = parse("tollgate tenant list --url http://127.0.0.1:1 --admin-key k").expect("fine");
    let failure = dispatch(cli.command).expect_err("nobody listens on port 1");
    assert!(matches!(&failure, Failure::Failed(said) if said.contains("tollgate serve")), "{failure}");
}
