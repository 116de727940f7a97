# shellcheck shell=bash disable=SC2034
# Common parts of the scripts: messages, the cache, long steps with progress.
# Source it after "set -euo pipefail".

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${XDG_CACHE_HOME:-${HOME:?}/.cache}/finetcp
JOBS=${JOBS:-$(nproc)}
PROG=${0##*/}

say() { printf '%s\n' "$PROG: $*" >&2; }
die() { say "error: $*"; exit "${DIE_STATUS:-1}"; }

# show_help: a script's help is the comment at its top
show_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }

# hash: a short name for what is on stdin
hash() { sha256sum | cut -c1-16; }

# elapsed SECONDS: 75 -> 1m15s
elapsed() {
	if [ "$1" -lt 60 ]; then echo "$1s"; else echo "$(($1 / 60))m$(($1 % 60))s"; fi
}

# A log's progress in a word or two. make's quiet lines ("  CC      x.o")
# are the only steady sign of life that a kernel build gives.
log_progress() {
	local n
	n=$(grep -cE '^  [A-Z]' "$1" 2>/dev/null) || true
	[ "$n" -eq 0 ] || printf '%s' ", $n steps"
}

ticker() {
	local name=$1 log=$2 pid=$3 start=$4 step=25
	[ ! -t 2 ] || step=1
	while sleep "$step" && kill -0 "$pid" 2>/dev/null; do
		if [ -t 2 ]; then
			printf '\r\033[K%s: %s ... %s%s' "$PROG" "$name" \
				"$(elapsed $((SECONDS - start)))" "$(log_progress "$log")" >&2
		else
			say "$name ... $(elapsed $((SECONDS - start)))$(log_progress "$log")"
		fi
	done
}

# phase NAME LOG COMMAND...: run COMMAND with its output in LOG, show that it
# lives, and stop with the end of the log when it fails.
phase() {
	local name=$1 log=$2 start=$SECONDS pid tick rc=0
	shift 2
	mkdir -p "$(dirname "$log")"
	[ -t 2 ] || say "$name ..."
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# (Without our locks: its sleep may end after us.)
	ticker "$name" "$log" "$pid" "$start" 8>&- 9>&- &
	tick=$!
	# Background jobs of a script ignore ctrl-C: pass it on.
	trap 'kill "$pid" "$tick" 2>/dev/null; exit 130' INT TERM HUP
	wait "$pid" || rc=$?
	trap - INT TERM HUP
	kill "$tick" 2>/dev/null || true
	wait "$tick" 2>/dev/null || true
	[ ! -t 2 ] || printf '\r\033[K' >&2
	if [ "$rc" -ne 0 ]; then
		say "$name: failed after $(elapsed $((SECONDS - start))), the log's last lines:"
		tail -n 30 "$log" >&2
		# Parallel jobs bury the reason under what still finished.
		say "and its errors:"
		grep -nE -A4 -m5 '(^|[^[:alnum:]_])(error|ERROR|undefined symbol)[][ :]' "$log" >&2 || true
		die "$name failed (exit status $rc); all of it is in $log"
	fi
	say "$name: done in $(elapsed $((SECONDS - start)))"
}

# lock FILE: wait for and hold a lock until the script ends. Children that may
# outlive the script must not inherit file descriptor 9.
lock() {
	mkdir -p "$(dirname "$1")"
	exec 9>"$1"
	flock --nonblock 9 || { say "waiting for another $PROG (${1##*/})"; flock 9; }
}

# with_lock FILE COMMAND...: run a function of this script under a lock
with_lock() {
	local file=$1
	shift
	lock "$file"
	"$@"
	exec 9>&-
}

# need_env "$@": start the calling script again inside the build environment
need_env() {
	[ -n "${FINETCP_ENV:-}" ] || exec "$TOP/scripts/env" -- "$TOP/scripts/$PROG" "$@"
}

# git_top DIR: the checkout that DIR is in, or nothing. By hand, because a bare
# machine has no git.
git_top() {
	local d=$1
	while [ "$d" != / ]; do
		if [ -e "$d/.git" ]; then echo "$d"; return; fi
		d=$(dirname "$d")
	done
}
