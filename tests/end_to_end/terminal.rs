//! `freshcreds status` where people see it: on a terminal, of any width, and in a
//! file.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cloud::{Cloud, Options};
use crate::machine::{Daemon, LIMIT, Machine, PROGRAM, ended_with, now, pause, run};

#[tokio::test]
async fn the_table_fits_a_terminal_of_any_width() -> Result<()> {
    let (machine, _cloud, _daemon) = watched().await?;
    for (columns, host) in [
        (40, "123456789012…eu-west-1…"),
        (80, "123456789012.dkr.ecr.eu-west-1…"),
        (120, "123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
    ] {
        let terminal = Terminal::open(&machine, columns).await?;
        terminal.enter("freshcreds status;echo ended $?").await?;
        let screen = terminal.until(|screen| screen.contains("ended 0")).await?;
        ensure!(screen.contains("✓ 3 of 3 registries are ready"), "{screen}");
        ensure!(screen.contains(host), "{host} is not in\n{screen}");
        ensure!((columns == 120) == screen.contains("WHY THEN"), "{screen}");
        ensure!((columns > 40) == screen.contains('█'), "{screen}");
        terminal.nothing_is_broken().await?;
        let colorful = terminal.tmux(&["capture-pane", "-p", "-e"]).await?;
        ensure!(colorful.contains("\x1b[32m✓ pass"), "{colorful:?}");
        terminal.is_at_rest().await?;
    }
    Ok(())
}

#[tokio::test]
async fn colours_can_be_had_and_done_without() -> Result<()> {
    let (machine, _cloud, _daemon) = watched().await?;
    for command in [
        "NO_COLOR=1 freshcreds status",
        "TERM=dumb freshcreds status",
        "freshcreds status --color never",
        "freshcreds status | cat",
    ] {
        let terminal = Terminal::open(&machine, 80).await?;
        terminal.enter(&format!("{command};echo ended $?")).await?;
        terminal.until(|screen| screen.contains("ended 0")).await?;
        let screen = terminal.tmux(&["capture-pane", "-p", "-e"]).await?;
        ensure!(screen.contains("✓ pass") && !screen.contains('\x1b'), "{command}: {screen:?}");
    }
    let colors = async |arguments: &[&str]| -> Result<bool> {
        let done = machine.freshcreds(arguments).await?;
        ended_with(&done, 0)?;
        Ok(done.stdout.contains("\x1b[32m✓ pass"))
    };
    ensure!(!colors(&["status"]).await?);
    ensure!(colors(&["status", "--color", "always"]).await?);
    // Without a terminal nothing is shortened.
    let done = machine.freshcreds(&["status"]).await?;
    ensure!(!done.stdout.contains('\x1b') && !done.stdout.contains('…'), "{}", done.stdout);
    ensure!(done.stdout.contains("123456789012.dkr.ecr.eu-west-1.amazonaws.com"));
    Ok(())
}

#[tokio::test]
async fn a_watch_goes_on_until_ctrl_c_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let (machine, cloud, mut daemon) = watched().await?;
    let terminal = Terminal::open(&machine, 80).await?;
    terminal.enter("echo before").await?;
    terminal.enter("freshcreds status --watch 0.2;echo ended $?").await?;
    let first = terminal.until(|screen| screen.contains("✓ 3 of 3 registries")).await?;
    ensure!(!first.contains("before"), "{first}");
    terminal.is_watching().await?;
    let time = line_of(&first, "freshcreds 0")?;
    terminal.until(|screen| line_of(screen, "freshcreds 0").is_ok_and(|now| now != time)).await?;

    // It follows the terminal's size.
    for (columns, has_bars, has_reasons) in
        [("40", false, false), ("120", true, true), ("80", true, false)]
    {
        terminal.tmux(&["resize-window", "-x", columns]).await?;
        let is_so = |screen: &str| {
            (screen.contains('█'), screen.contains("WHY THEN")) == (has_bars, has_reasons)
        };
        terminal.until(|screen| screen.contains("FILES") && is_so(screen)).await?;
        terminal.nothing_is_broken().await?;
    }
    terminal.tmux(&["resize-window", "-y", "6"]).await?;
    let low = terminal.until(|screen| screen.contains("more lines")).await?;
    ensure!(low.starts_with("✓ 3 of 3"), "{low}");
    terminal.tmux(&["resize-window", "-y", "50"]).await?;

    // It outlives the daemon.
    daemon.stop().await?;
    let gone = terminal.until(|screen| screen.contains("no answer")).await?;
    ensure!(gone.starts_with('✗') && gone.contains("The last one, of 2"), "{gone}");
    let _daemon = machine.daemon().await?;
    terminal.until(|screen| screen.starts_with("✓ 3 of 3")).await?;

    // It can be stopped, and goes on.
    terminal.press("C-z").await?;
    terminal.until(|screen| screen.contains("Stopped")).await?;
    terminal.is_at_rest().await?;
    terminal.enter("fg").await?;
    terminal.until(|screen| screen.starts_with("✓ 3 of 3")).await?;
    terminal.is_watching().await?;

    terminal.press("C-c").await?;
    let last = terminal.until(|screen| screen.contains("ended")).await?;
    // The shell tells the end of the one that it had stopped.
    ensure!(last.contains("before") && !last.contains("registries"), "{last}");
    terminal.is_at_rest().await?;

    terminal.enter("clear; freshcreds status --watch;echo ended $?").await?;
    terminal.until(|screen| screen.starts_with("✓ 3 of 3")).await?;
    terminal.press("C-c").await?;
    terminal.until(|screen| screen.contains("ended 0")).await?;
    terminal.is_at_rest().await?;
    let screen = terminal.tmux(&["capture-pane", "-p", "-S", "-"]).await?;
    ensure!(cloud.leak_in(screen.as_bytes()).is_none(), "{screen}");
    Ok(())
}

#[tokio::test]
async fn a_watch_that_is_terminated_leaves_the_terminal_as_it_was() -> Result<()> {
    let (machine, _cloud, _daemon) = watched().await?;
    for signal in [Signal::TERM, Signal::QUIT, Signal::HUP] {
        let terminal = Terminal::open(&machine, 80).await?;
        terminal.enter("freshcreds status --watch;echo ended $?").await?;
        terminal.until(|screen| screen.starts_with("✓ 3 of 3")).await?;
        terminal.is_watching().await?;
        let shell = terminal.tmux(&["display-message", "-p", "#{pane_pid}"]).await?;
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let watch = children.trim().parse().ok().and_then(Pid::from_raw);
        kill_process(watch.context("it is not there")?, signal)?;
        terminal.until(|screen| screen.contains("ended 0")).await?;
        terminal.is_at_rest().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_without_a_terminal_adds_a_block_each_time() -> Result<()> {
    let (machine, _cloud, mut daemon) = watched().await?;
    let watch = async |arguments: &[&str]| -> Result<String> {
        let mut command = machine.command(PROGRAM);
        command.args(["status", "--watch", "0.1"]).args(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let id = child.id().context("it has ended")?;
        pause(Duration::from_secs(1)).await;
        kill_process(Pid::from_raw(id.try_into()?).context("no process has it")?, Signal::INT)?;
        let output = timeout(LIMIT, child.wait_with_output()).await.context("it goes on")??;
        ended_with(&output.clone().into(), 0)?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = watch(&[]).await?;
    ensure!(!text.contains('\x1b'), "{text:?}");
    let blocks: Vec<_> = text.split("\n\n✓").collect();
    ensure!(blocks.len() > 2 && text.starts_with("✓ 3 of 3"), "{text}");
    ensure!(blocks.iter().all(|block| block.contains("FILES")), "{text}");

    let text = watch(&["--json"]).await?;
    let reports: Vec<serde_json::Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(reports.len() > 2 && reports.iter().all(|one| one["status"] == "pass"), "{text}");

    daemon.stop().await?;
    ensure!(watch(&[]).await?.starts_with("✗ no answer: "));
    ensure!(watch(&["--json"]).await?.is_empty(), "a line that is no report");

    for wrong in ["0", "-1", "soon", "inf", "nan"] {
        let done = machine.freshcreds(&["status", &format!("--watch={wrong}")]).await?;
        ended_with(&done, 2)?;
        ensure!(done.stderr.contains("between 0.1 and 86400"), "{}", done.stderr);
    }
    ended_with(&machine.freshcreds(&["status", "--watch", "--listen", "off"]).await?, 2)?;

    // Who reads no more is no failure.
    let head = "freshcreds status --watch 0.1 | head -n 1";
    let done = run(machine.command("bash").args(["-o", "pipefail", "-c", head])).await?;
    ended_with(&done, 0)
}

/// A daemon with the three registries that people look at, at a place that it keeps.
async fn watched() -> Result<(Machine, Cloud, Daemon)> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.more_settings(
        "[[registry]]\nhost = \"123456789012.dkr.ecr.eu-west-1.amazonaws.com\"\nkind = \"ecr\"\n\
         region = \"eu-west-1\"\n",
    )?;
    let folder = PathBuf::from(PROGRAM).parent().context("no folder")?.to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    machine.set("PATH", format!("{}:{path}", folder.display()));
    machine.set("LANG", "C.UTF-8");
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    machine.set("FRESHCREDS_LISTEN", free);
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    Ok((machine, cloud, daemon))
}

fn line_of(screen: &str, words: &str) -> Result<String> {
    let line = screen.lines().find(|line| line.contains(words));
    Ok(line.with_context(|| format!("{words} is not in\n{screen}"))?.to_owned())
}

/// A terminal with a shell in it, which is closed when it is dropped.
struct Terminal<'a> {
    machine: &'a Machine,
    socket: tempfile::TempDir,
    _server: Child,
}

impl<'a> Terminal<'a> {
    async fn open(machine: &'a Machine, columns: u16) -> Result<Self> {
        let socket = tempfile::TempDir::with_prefix("freshcreds-terminal-")?;
        let mut server = tmux(machine, &socket);
        // In the foreground, so that it ends with us.
        let server = server.args(["-f", "/dev/null", "-D"]).spawn();
        let server = server.context("tmux cannot be run: run `make setup`")?;
        let terminal = Self { machine, socket, _server: server };
        let columns = columns.to_string();
        let new = ["new-session", "-d", "-x", &columns, "-y", "50", "sh"];
        let opening = async {
            while terminal.tmux(&new).await.is_err() {
                pause(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, opening).await.context("tmux does not start")?;
        terminal.until(|screen| screen.starts_with(['$', '#'])).await?;
        Ok(terminal)
    }

    async fn tmux(&self, arguments: &[&str]) -> Result<String> {
        // It starts no server of its own, which would outlive us.
        let done = run(tmux(self.machine, &self.socket).arg("-N").args(arguments)).await?;
        ended_with(&done, 0)?;
        Ok(done.stdout)
    }

    /// Types a command.
    async fn enter(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).await?;
        self.press("Enter").await
    }

    async fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).await.map(drop)
    }

    /// What is to be seen, once it is as it should be.
    async fn until(&self, is_so: impl Fn(&str) -> bool) -> Result<String> {
        let mut screen = String::new();
        let waiting = async {
            loop {
                screen = self.tmux(&["capture-pane", "-p"]).await?;
                if is_so(&screen) {
                    return anyhow::Ok(());
                }
                pause(Duration::from_millis(50)).await;
            }
        };
        let result = timeout(LIMIT / 4, waiting).await;
        result.with_context(|| format!("it did not come about:\n{screen}"))??;
        Ok(screen)
    }

    /// No line goes on in the next one, once what the terminal itself has broken is drawn anew.
    async fn nothing_is_broken(&self) -> Result<()> {
        let lines = |text: String| text.lines().map(|line| line.trim_end().to_owned()).collect();
        let started = now();
        loop {
            let shown: Vec<String> = lines(self.tmux(&["capture-pane", "-p"]).await?);
            let joined: Vec<String> = lines(self.tmux(&["capture-pane", "-p", "-J"]).await?);
            if shown == joined {
                return Ok(());
            }
            let is_late = now().duration_since(started)? > Duration::from_secs(2);
            ensure!(!is_late, "{}\nis not\n{}", shown.join("\n"), joined.join("\n"));
            pause(Duration::from_millis(50)).await;
        }
    }

    async fn is_watching(&self) -> Result<()> {
        ensure!(self.flags().await? == "0 1", "there is a cursor, or the first screen");
        Ok(())
    }

    async fn is_at_rest(&self) -> Result<()> {
        ensure!(self.flags().await? == "1 0", "there is no cursor, or another screen");
        Ok(())
    }

    /// Whether there is a cursor, and whether it is another screen.
    async fn flags(&self) -> Result<String> {
        let flags = "#{cursor_flag} #{alternate_on}";
        Ok(self.tmux(&["display-message", "-p", flags]).await?.trim().to_owned())
    }
}

fn tmux(machine: &Machine, socket: &tempfile::TempDir) -> Command {
    let mut command = machine.command("tmux");
    command.arg("-u").arg("-S").arg(socket.path().join("socket"));
    command
}
