#!/bin/bash
# usage: tests/harness.sh [sim|vm|debug]...
#
# Can the guests be trusted? Each case runs a guest whose end is known, so that
# a green test elsewhere means something: failures must come out as failures,
# output must arrive whole. Prints KTAP.

# Cases are called by name, and many a "$" is for the guest.
# shellcheck disable=SC2016,SC2317
set -uo pipefail
TOP=$(cd "$(dirname "$0")/.." && pwd)
cd "$TOP" || exit 1
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT

# guest COMMAND...: in the guest under test, quietly
guest() {
	local rc=0
	"${run[@]}" "$@" >"$TMP/out" 2>"$TMP/err" || rc=$?
	echo "$rc" >"$TMP/status"
	return "$rc"
}
# ends STATUS COMMAND...: the guest's exit status is STATUS
ends() {
	local want=$1 got=0
	shift
	guest "$@" || got=$?
	[ "$got" -eq "$want" ] || { echo "# the exit status should be $want"; return 1; }
}
complains() { grep -q "$1" "$TMP/err" || { echo "# no \"$1\" on standard error"; return 1; }; }

case_status() { ends 0 -- true && ends 1 -- false && ends 7 -- sh -c 'exit 7' && ends 127 -- no-such-command; }
case_arguments_and_directory() {
	guest -- sh -c 'printf "%s|" "$PWD" "$@"' sh 'a  b' "it's" '$HOME *' '' &&
	[ "$(cat "$TMP/out")" = "$TOP|a  b|it's|\$HOME *||" ]
}
case_environment() {
	FINETCP_PASS=HARNESS HARNESS='x y' guest --env 'TWO=2 $' -- sh -c 'echo "$HARNESS/$TWO/$FINETCP_KERNEL"' &&
	[ "$(cat "$TMP/out")" = "x y/2 \$/$kernel" ]
}
case_outputs_apart() {
	guest -- sh -c 'echo one; echo two >&2; echo three >/dev/stdout' &&
	[ "$(cat "$TMP/out")" = $'one\nthree' ] && [ "$(cat "$TMP/err")" = two ]
}
case_large_output_whole() {
	guest -- sh -c 'head -c 5000000 /dev/urandom | tee /tmp/x; sha256sum </tmp/x >&2' &&
	[ "$(sha256sum <"$TMP/out")" = "$(cat "$TMP/err")" ]
}
case_module_loaded() { ends 0 -- test -d /sys/module/finetcp && ends 1 --no-module -- test -d /sys/module/finetcp; }
case_module_reloaded() { ends 0 -- sh -c 'rmmod finetcp && insmod $FINETCP_KO'; }
case_module_removed() { ends 0 -- rmmod finetcp; }
case_wrong_parameter_fails() { FINETCP_PARAMS=rto_min_floor=nonsense ends 125 -- true && complains 'insmod'; }
case_checkout_writable() {
	guest -- sh -c 'echo hello >tests/.harness' && [ "$(cat tests/.harness)" = hello ]
	local rc=$?
	rm -f tests/.harness
	return "$rc"
}
case_root_readonly() { ends 1 -- sh -c 'echo x >/etc/harness || exit 1'; }
case_leftovers_do_not_matter() { ends 0 -- sh -c 'sleep 1000 & nohup sleep 1000 & exit 0'; }
case_early_poweroff_fails() { ends 125 -- busybox poweroff -f && complains 'left no exit status'; }
case_warning_fails() { ends 125 -- sh -c 'echo "WARNING: CPU: 0 PID: 1 at made up" >/dev/kmsg; sleep 0.1' && complains 'made up'; }
case_timeout() { ends 124 --timeout 5 -- sh -c "$forever"; }
case_panic_fails() { [ "$kind" = sim ] || { ends 125 -- sh -c 'echo c >/proc/sysrq-trigger' && complains 'Kernel panic'; }; }
case_killed_init_fails() { ends 125 -- sh -c 'mount -t tmpfs none /run/finetcp; sleep 0.1' && complains 'left no exit status'; }
case_seed_repeats() {
	[ "$kind" = sim ] || return 0
	local chance='date +%s.%N; cat /proc/sys/kernel/random/uuid; shuf -i 1-1000000 -n 5; cat /proc/net/finetcp_stat' first
	guest --seed 1 -- sh -c "$chance" && first=$(cat "$TMP/out") &&
	guest --seed 1 -- sh -c "$chance" && [ "$(cat "$TMP/out")" = "$first" ] &&
	guest --seed 2 -- sh -c "$chance" && [ "$(cat "$TMP/out")" != "$first" ]
}
case_terminated_leaves_nothing() {
	local pid
	"${run[@]}" --env HARNESS=$$ -- sh -c "$forever" >/dev/null 2>&1 &
	pid=$!
	sleep 4
	kill -TERM "$pid"
	wait "$pid"
	sleep 0.5
	! pgrep -f "[H]ARNESS=$$ " >/dev/null
}

kinds=("$@")
[ $# -gt 0 ] || kinds=(sim vm)
mapfile -t cases < <(declare -F | sed -n 's/^declare -f case_//p')
echo KTAP version 1
echo "1..$((${#kinds[@]} * ${#cases[@]}))"
n=0 failed=0
for kind in "${kinds[@]}"; do
	# On a virtual clock sleeping takes no time, but spinning takes for ever.
	case $kind in
	sim) kernel=patched run=(scripts/sim) forever='while :; do :; done' ;;
	vm) kernel=patched run=(scripts/vm) forever='sleep 1000' ;;
	debug) kernel=debug run=(scripts/vm --kernel debug) forever='sleep 1000' ;;
	*) sed -n '2s/^# //p' "$0" >&2; exit 2 ;;
	esac
	for name in "${cases[@]}"; do
		n=$((n + 1))
		if "case_$name"; then
			echo "ok $n $kind: $name"
		else
			echo "# exit status $(cat "$TMP/status"), the end of standard error:"
			tail -n 30 "$TMP/err" | sed 's/^/# /'
			echo "not ok $n $kind: $name"
			failed=1
		fi
	done
done
exit $failed
