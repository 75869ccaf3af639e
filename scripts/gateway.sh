# shellcheck shell=bash disable=SC2034  # what is set here is used by those who source it
# Sourced by the scripts that start, stop and probe a gateway: where it keeps its state, how to ask it, how to run a program
# in the background. Needs bash and curl, nothing else.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac

# Everything a local gateway leaves on the disk is in one folder, which `make down && rm -r .tollgate` forgets.
state=${TOLLGATE_STATE_DIR:-$root/.tollgate}
port=${TOLLGATE_PORT:-8080}
sim_port=${TOLLGATE_SIM_PORT:-8089}
tollgate=${TOLLGATE_BIN:-$target/release/tollgate}

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# bearer KEY: what curl reads as `-H @<(bearer KEY)`. As an argument the key would show in `ps`.
bearer() {
    if [ -n "$1" ]; then printf 'authorization: Bearer %s' "$1"; fi
}

# request METHOD URL KEY [JSON]: sets $status and $body, leaves the headers in the file $headers. An empty key is not sent.
request() {
    local method=$1 url=$2 key=$3 data=${4-} answer
    headers=${headers:-$(mktemp)}
    local more=()
    if [ -n "$data" ]; then more=(-H "content-type: application/json" --data-binary "$data"); fi
    answer=$(curl -sS -N --max-time 30 -X "$method" -D "$headers" -w '\n%{http_code}' \
        -H @<(bearer "$key") "${more[@]}" "$url" 2>&1) || true
    status=${answer##*$'\n'}
    body=${answer%$'\n'*}
}

# header NAME: of the last answer.
header() {
    sed -n "s/^$1: *//Ip" "$headers" | tr -d '\r' | tail -n 1
}

# field NAME [TEXT]: the first string or number of that name in a JSON text, else in the last answer.
field() {
    printf '%s' "${2-$body}" | grep -o "\"$1\" *: *\(\"[^\"]*\"\|-\?[0-9][0-9]*\)" | head -n 1 |
        sed 's/^"[^"]*" *: *//; s/^"//; s/"$//'
}

# is_running PID_FILE: whether the program that wrote it still runs (and is ours: ids are used again).
is_running() {
    local pid
    [ -f "$1" ] && pid=$(cat "$1") && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null &&
        tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q tollgate
}

# is_taken PORT: whether somebody listens there already.
is_taken() {
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# in_background NAME COMMAND...: with $state/NAME.pid and $state/NAME.log; it outlives the terminal.
in_background() {
    local name=$1
    shift
    setsid nohup "$@" >>"$state/$name.log" 2>&1 </dev/null &
    echo $! >"$state/$name.pid"
}

# wait_for URL NAME SECONDS: until it answers 200, with a dot for each second; gives up when the program has ended.
wait_for() {
    local url=$1 name=$2 tries=$(($3 * 10)) i
    for ((i = 0; i < tries; i++)); do
        if [ "$(curl -s -o /dev/null -w '%{http_code}' --max-time 2 "$url")" = 200 ]; then
            if ((i >= 10)); then echo; fi
            return 0
        fi
        is_running "$state/$name.pid" || break
        if ((i % 10 == 9)); then printf '.'; fi
        sleep 0.1
    done
    echo
    echo "$name did not become ready; the end of $state/$name.log:" >&2
    tail -n 20 "$state/$name.log" >&2
    return 1
}

# stop NAME SECONDS: asks it to finish what it has begun, and waits; by force after that.
stop() {
    local file=$state/$1.pid pid i
    if ! is_running "$file"; then
        rm -f "$file"
        return 1
    fi
    pid=$(cat "$file")
    kill -TERM "$pid"
    for ((i = 0; i < $2 * 10; i++)); do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$file"
            return 0
        fi
        sleep 0.1
    done
    echo "$1 (process $pid) did not stop within $2 s: killed" >&2
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$file"
}

# random_hex BYTES
random_hex() {
    od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}
