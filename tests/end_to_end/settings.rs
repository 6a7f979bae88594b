//! Settings, wrong and right, and the commands that people type.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;

use crate::cloud::Options;
use crate::machine::{Machine, ended_with, pause, put, run};

#[tokio::test]
async fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() -> Result<()> {
    let machine = Machine::new()?;
    let path = machine.home().join("bad.toml");
    put(&path, "log_format = \"json\"\nlisten_adress = \"off\"\n")?;
    let path = path.to_string_lossy().into_owned();
    let done = machine.freshcreds(&["once", "--config", &path, "gcr.io"]).await?;
    ended_with(&done, 2)?;
    for words in [path.as_str(), "line 2", "listen_adress", "did you mean `listen`?"] {
        assert!(done.stderr.contains(words), "{words} is not in {}", done.stderr);
    }
    assert!(done.stdout.is_empty());
    Ok(())
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_says_what_to_do() -> Result<()> {
    let machine = Machine::new()?;
    for (arguments, words) in [
        (&["once"][..], "no registry is named"),
        (&["once", "https://gcr.io"], "without a scheme"),
        (&["once", "registry.example.com"], "[[registry]] table"),
        (&["once", "ghcr.io"], "`secret_file`"),
        (&["run", "--listen", "8099", "gcr.io"], "write ADDRESS:PORT"),
        (&["once", "--config", "/nowhere.toml"], "cannot read the settings file /nowhere.toml"),
        (&["check", "--listen", "off"], "there is nobody to ask"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["once", "--log-format", "xml"], "text, json"),
        (&[], "Usage: freshcreds"),
    ] {
        let done = machine.freshcreds(arguments).await?;
        ended_with(&done, 2)?;
        assert!(done.stderr.contains(words), "{arguments:?}: {}", done.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn check_and_status_say_how_the_daemon_is() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let listen = daemon.address().to_string();

    let done = machine.freshcreds(&["check", "--listen", &listen]).await?;
    ended_with(&done, 0)?;
    assert!(done.stdout.is_empty() && done.stderr.is_empty());

    let done = machine.freshcreds(&["status", "--listen", &listen]).await?;
    ended_with(&done, 0)?;
    let headline = "2 of 2 registries are ready";
    let host = cloud.ecr_registry().host();
    for words in [headline, "REGISTRY", host, "ecr", "##########", "11h 59m", "pass"] {
        assert!(done.stdout.contains(words), "{words} is not in\n{}", done.stdout);
    }

    let done = machine.freshcreds(&["status", "--json", "--listen", &listen]).await?;
    ended_with(&done, 0)?;
    let status: serde_json::Value = serde_json::from_str(&done.stdout)?;
    assert_eq!(status["status"], "pass");
    assert_eq!(cloud.leak_in(done.stdout.as_bytes()), None);

    put(&machine.docker_config(), "{")?;
    pause(Duration::from_millis(1100)).await;
    let done = machine.freshcreds(&["check", "--listen", &listen]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("not valid JSON"), "{}", done.stderr);
    let done = machine.freshcreds(&["status", "--listen", &listen]).await?;
    ended_with(&done, 1)?;
    for words in ["0 of 2 registries are ready", "fail", "since", "do     mend the file"] {
        assert!(done.stdout.contains(words), "{words} is not in\n{}", done.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn nobody_to_ask_is_not_ready() -> Result<()> {
    let machine = Machine::new()?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    for command in ["check", "status"] {
        let done = machine.freshcreds(&[command, "--listen", &free]).await?;
        ended_with(&done, 1)?;
        assert!(done.stderr.contains("is `freshcreds run` up"), "{}", done.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn several_files_are_kept_and_one_that_fails_does_not_hold_back_the_others() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let files = ["one.json", "two.json", "three.json"].map(|name| machine.home().join(name));
    put(&files[1], "this is not JSON")?;
    let list = files.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(",");
    machine.set("FRESHCREDS_DOCKER_CONFIG", list);
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    for file in [&files[0], &files[2]] {
        let text = std::fs::read_to_string(file)?;
        assert!(text.contains(&cloud.ecr().issued()[0].auth()), "{text}");
    }
    assert_eq!(std::fs::read_to_string(&files[1])?, "this is not JSON");
    Ok(())
}

#[tokio::test]
async fn docker_config_says_where_docker_reads() -> Result<()> {
    let (mut machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let folder = machine.home().join("elsewhere");
    machine.set("DOCKER_CONFIG", folder.clone());
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    assert!(folder.join("config.json").is_file());
    Ok(())
}

#[tokio::test]
async fn help_names_every_command_and_each_flags_variable() -> Result<()> {
    let machine = Machine::new()?;
    let help = machine.freshcreds(&["--help"]).await?;
    ended_with(&help, 0)?;
    for words in ["run", "once", "check", "status", "Examples:"] {
        assert!(help.stdout.contains(words), "{words}");
    }
    for (flag, variable) in [
        ("--config", "FRESHCREDS_CONFIG"),
        ("--docker-config", "FRESHCREDS_DOCKER_CONFIG"),
        ("--listen", "FRESHCREDS_LISTEN"),
        ("--log-format", "FRESHCREDS_LOG_FORMAT"),
        ("--log-level", "FRESHCREDS_LOG_LEVEL"),
    ] {
        assert!(help.stdout.contains(flag) && help.stdout.contains(variable), "{flag}");
    }
    let run_help = machine.freshcreds(&["run", "--help"]).await?;
    for words in ["FRESHCREDS_REGISTRIES", "SIGHUP", "Exits with 0"] {
        assert!(run_help.stdout.contains(words), "{words}");
    }
    Ok(())
}

#[tokio::test]
async fn the_readme_says_what_help_says() -> Result<()> {
    let readme = include_str!("../../README.md");
    let machine = Machine::new()?;
    let help = run(machine.command(crate::machine::PROGRAM).arg("--help")).await?;
    let words = help.stdout.split_whitespace();
    for word in words.filter(|word| word.starts_with("--") || word.starts_with("[env:")) {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-');
        if word.starts_with("--") && !["--", "--help", "--version"].contains(&word) {
            assert!(readme.contains(word), "{word} is not in the README");
        }
    }
    for variable in help.stdout.split("[env: ").skip(1) {
        let variable = variable.split('=').next().unwrap_or_default();
        assert!(readme.contains(variable), "{variable} is not in the README");
    }
    Ok(())
}

#[tokio::test]
async fn a_build_asks_whether_a_credential_lives_long_enough_for_it() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let (ecr, google) = (cloud.ecr_registry().host(), cloud.google_registry().host());
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    // ECR's lives for 12 hours, Google's for one.
    for (question, code, words) in [
        (format!("registry={ecr}&min_life=11h"), "200", "ready"),
        (format!("registry={google}&min_life=2h"), "503", "2h are wanted"),
        ("min_life=30m".to_owned(), "200", "ready"),
        ("min_life=2h".to_owned(), "503", google),
        (format!("registry={ecr}&registry={google}"), "200", "ready"),
        ("registry=other.example.com".to_owned(), "404", "no registry that is kept fresh"),
        ("registry=https%3A%2F%2Fgcr.io".to_owned(), "400", "write it as HOST"),
        ("min_life=soon".to_owned(), "400", "2h"),
        ("minlife=2h".to_owned(), "400", "`min_life`"),
    ] {
        let answer = daemon.get(&format!("/readyz?{question}")).await?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{question}: {answer}");
        ensure!(answer.contains(words), "{question}: {answer}");
    }
    machine.set("FRESHCREDS_LISTEN", daemon.address().to_string());
    let check = async |arguments: &[&str]| machine.freshcreds(arguments).await;
    ended_with(&check(&["check", "--min-life", "11h", ecr]).await?, 0)?;
    let done = check(&["check", "--min-life", "2h", google]).await?;
    ended_with(&done, 1)?;
    ensure!(done.stderr.contains("2h are wanted"), "{}", done.stderr);
    ended_with(&check(&["check", "other.example.com"]).await?, 2)?;
    Ok(())
}

#[tokio::test]
async fn a_check_can_wait_for_a_daemon_that_is_not_there_yet() -> Result<()> {
    let (mut machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    machine.set("FRESHCREDS_LISTEN", free);
    let waiting = machine.freshcreds(&["check", "--wait", "20s"]);
    let starting = async {
        pause(Duration::from_secs(1)).await;
        machine.daemon().await
    };
    let (done, daemon) = tokio::join!(waiting, starting);
    daemon?;
    ended_with(&done?, 0)?;
    let done = machine.freshcreds(&["check", "--wait", "1s"]).await?;
    ended_with(&done, 1)
}

#[tokio::test]
async fn a_daemon_is_asked_even_if_the_settings_of_now_are_broken() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    machine.more_settings("no_such_key = 1\n")?;
    let listen = daemon.address().to_string();
    for arguments in [&["check", "--listen", &listen][..], &["status", "--listen", &listen]] {
        let done = machine.freshcreds(arguments).await?;
        ended_with(&done, 0)?;
        assert!(done.stderr.contains("no_such_key"), "{}", done.stderr);
    }
    // Who would act by them does not.
    ended_with(&machine.freshcreds(&["once"]).await?, 2)
}

#[tokio::test]
async fn a_socket_in_the_file_system_is_asked_by_its_name() -> Result<()> {
    let (mut machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let socket = machine.home().join("health.sock");
    let listen = format!("unix:{}", socket.display());
    machine.set("FRESHCREDS_LISTEN", &listen);
    let mut command = machine.command(crate::machine::PROGRAM);
    let mut child = command.arg("run").stderr(std::process::Stdio::null()).spawn()?;
    ended_with(&machine.freshcreds(&["check", "--wait", "20s"]).await?, 0)?;
    let curl = machine
        .command("curl")
        .args(["--silent", "--unix-socket"])
        .arg(&socket)
        .arg("http://freshcreds/readyz")
        .output()
        .await?;
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "ready\n");
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = id.and_then(rustix::process::Pid::from_raw).context("it has ended")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    assert!(child.wait().await?.success());
    assert!(!socket.exists());
    Ok(())
}
