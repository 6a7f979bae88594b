# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_freshcreds_global_optspecs
    string join \n config= docker-config= state= verify= ca-file= listen= allowed-hosts= log-format= log-level= h/help V/version
end

function __fish_freshcreds_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_freshcreds_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_freshcreds_using_subcommand
    set -l cmd (__fish_freshcreds_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c freshcreds -n "__fish_freshcreds_needs_command" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_needs_command" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -s V -l version -d 'Print version'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -f -a "run" -d 'Keep the credentials of the named registries fresh until a signal ends it'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -f -a "once" -d 'Fetch and write every credential once, for an init container, cron or a systemd timer'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -f -a "check" -d 'Ask the running daemon whether every credential is fresh; for HEALTHCHECK'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -f -a "logout" -d 'Remove every entry that freshcreds wrote, from every file, and nothing else'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -f -a "doctor" -d 'Try each step of the way for each registry, and say what to do where it ends'
complete -c freshcreds -n "__fish_freshcreds_needs_command" -f -a "status" -d 'Show what the running daemon knows: each registry\'s credential, each file'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l wait -d 'How long to wait for credentials that cannot be had at once, as in 2m: at a machine\'s start, the network and the identity may come later' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand once" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l min-life -d 'How long the credentials must still be good, as in 2h: for a build that takes so long' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l wait -d 'How long to wait until it is so, as in 5m' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand logout" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -l json -d 'Print a document instead of a text'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l watch -d 'Show it again every few seconds, until Ctrl-C [default: 2]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l color -d 'When to use colours; `auto`: on a terminal, unless `NO_COLOR` or `CLICOLOR_FORCE` says otherwise' -r -f -a "auto\t'Where they are of use'
always\t'Everywhere'
never\t'Nowhere'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l config -d 'A settings file (TOML)' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l docker-config -d 'A docker config.json or podman auth.json to keep fresh; can be given several times, in the variable with commas [default: the file that docker reads: config.json in the folder of `DOCKER_CONFIG`, else in ~/.docker]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l state -d 'A folder to remember in what was written, or `off`: for `logout`, and for restarts that fetch nothing [default: the one that systemd gives, else ~/.local/state/freshcreds]' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l verify -d 'Whether to ask each registry if it takes its credential, before that is written and every quarter of an hour: true or false [default: true for `once`, false for `run`]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l ca-file -d 'Authorities to trust beside the machine\'s, as PEM: of a proxy that looks into TLS, of a cloud of one\'s own' -r -F
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l listen -d 'Where the health endpoint listens: ADDRESS:PORT, `unix:/PATH`, or `off` [default: 127.0.0.1:8099]' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l allowed-hosts -d 'Names by which the endpoint may be asked, besides its addresses and localhost; others are refused, since a stranger\'s page could make a browser ask' -r
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l log-format -d 'How to log, on standard error [default: text on a terminal, else json]' -r -f -a "text\t'A line for people'
json\t'A JSON object a line'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l log-level -d 'What to log; the libraries that talk to the clouds never log [default: info]' -r -f -a "error\t'Only what ends the program'
warn\t'What needs attention'
info\t'What was decided'
debug\t'What happens in between'
trace\t'Everything'"
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -l json -d 'Print what /status answers instead of a table; with --watch, a line each time'
complete -c freshcreds -n "__fish_freshcreds_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
