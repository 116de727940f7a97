# shellcheck shell=bash disable=SC2034
# The host's side of a guest, common to scripts/vm and scripts/sim: options,
# what the guest is told, and the verdict. See scripts/guest/init for the other
# side. The scripts set PROG, then call parse, prepare, watch and verdict.

# What a kernel says when something is wrong with it.
COMPLAINTS='WARNING: |BUG: |BUG at|Oops|KASAN|UBSAN|ODEBUG|refcount_t|Call Trace:|general protection fault|Kernel panic|possible circular locking|possible recursive locking|possible irq lock inversion|suspicious RCU usage|inconsistent lock state|INFO: trying to register non-static key|rcu: INFO:|detected stall|soft lockup|hard LOCKUP|blocked for more than|workqueue lockup|unregister_netdevice: waiting|scheduling while atomic|sleeping function called|Voluntary context switch within RCU|list_(add|del) corruption|Unable to handle kernel'

# The kernel's parameters in every guest: die of any fault, run no unit tests
# but ours, and make no network devices that nobody asked for.
PARAMETERS='panic=-1 oops=panic loglevel=6 kunit.filter_glob=finetcp*
	dummy.numdummies=0 ifb.numifbs=0 bonding.max_bonds=0'

DIE_STATUS=125
kernel=patched with_module=1 mem=2G timeout=900 append='' seed='' smp='' icount='' threads=multi
pass=()

parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		--help | -h) show_help; exit ;;
		--kernel) kernel=${2:?}; shift ;;
		--no-module) with_module='' ;;
		--mem) mem=${2:?}; shift ;;
		--seed) seed=${2:?}; shift ;;
		--timeout) timeout=${2:?}; shift ;;
		--append) append+=" ${2:?}"; shift ;;
		--env) pass+=("${2:?}"); shift ;;
		--smp) smp=${2:?}; shift ;;
		--icount) icount=1 ;;
		--one-thread) threads=single ;;
		--) shift; break ;;
		[!-]*) break ;;
		*) die "unknown option $1 (see --help)" ;;
		esac
		shift
	done
	[ $# -gt 0 ] || die "no command (see --help)"
	command=("$@")
}

# prepare VARIANT: build what is needed and write the guest's orders to $run
prepare() {
	local variant=$1 name want='' guest build='' ko='' environment
	run=$(mktemp -d "${TMPDIR:-/tmp}/finetcp.XXXXXX")
	trap 'rm -rf "$run"' EXIT
	top=$(git_top "$PWD")
	# Outside a checkout the directory itself; / is shared anyway.
	[ -n "$top" ] || top=${PWD#/}
	[ -z "$top" ] || top=/${top#/}
	# The guest has these directories to itself.
	case $CACHE in /tmp/* | /var/tmp/* | /run/* | /dev/shm/*) hidden=$CACHE ;; *) hidden='' ;; esac
	case $variant in
	*stock) with_module='' ;;
	# Also with --no-module, for a command that loads it itself; but then
	# the module need not exist yet.
	*) [ -z "$with_module" ] && [ ! -e "$TOP/Kbuild" ] || want=--module ;;
	esac
	guest=$("$TOP/scripts/kernel" guest "$variant" ${want:+"$want"})
	{ read -r image; read -r build; read -r ko; } <<<"$guest" || true
	environment=(PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp/home LANG=C.UTF-8 TERM=dumb
		TMPDIR=/tmp FINETCP_KERNEL="$kernel" FINETCP_BUILD="$build")
	if [ -n "$ko" ]; then
		cp "$ko" "$run/finetcp.ko"
		environment+=(FINETCP_KO=/run/finetcp/finetcp.ko)
	fi
	for name in ${FINETCP_PASS:-}; do
		[ -z "${!name+set}" ] || environment+=("$name=${!name}")
	done
	environment+=("${pass[@]}")
	touch "$run/stdout" "$run/stderr" "$run/console"
	{
		echo "cache=${hidden@Q}"
		echo "top=${top@Q}"
		echo "module=${with_module:+finetcp.ko}"
		echo "parameters=${FINETCP_PARAMS@Q}"
		# env by its path, or busybox would take its own, and its own
		# version of the command too.
		echo "run_command() { cd ${PWD@Q} && exec /usr/bin/env -i ${environment[*]@Q} ${command[*]@Q}; }"
	} >"$run/run.sh"
}

# watch GUEST...: run the guest, copy its output on as it comes. Sets ended to
# its exit status (124: it took longer than allowed).
watch() {
	local guest tails=()
	timeout --foreground --kill-after=5 "$timeout" "$@" </dev/null >"$run/hypervisor" 2>&1 &
	guest=$!
	trap 'kill "$guest" 2>/dev/null; wait; exit 130' INT TERM HUP
	# They read to the end when the guest is gone.
	tail --pid="$guest" -s 0.1 -c +1 -f "$run/stdout" 2>/dev/null &
	tails+=($!)
	tail --pid="$guest" -s 0.1 -c +1 -f "$run/stderr" >&2 &
	tails+=($!)
	ended=0
	wait "$guest" 2>/dev/null || ended=$?
	trap - INT TERM HUP
	wait "${tails[@]}" || true
}

show_console() {
	local n
	{
		if n=$(grep -nE -m 1 "$COMPLAINTS" "$run/console"); then
			echo "--- the kernel's log, from its first complaint:"
			n=${n%%:*}
			tail -n "+$((n > 5 ? n - 5 : 1))" "$run/console" | head -n 80
		else
			echo "--- the kernel's log, last lines:"
			tail -n 60 "$run/console"
		fi
		[ ! -s "$run/hypervisor" ] || { echo "--- and its host process:"; tail -n 20 "$run/hypervisor"; }
		echo "---"
	} | tr -d '\r' >&2
}

# verdict: exit with the command's status if the guest lived and died well.
verdict() {
	[ -z "${FINETCP_CONSOLE:-}" ] || cp "$run/console" "$FINETCP_CONSOLE"
	if [ "$ended" -eq 124 ] || [ "$ended" -eq 137 ]; then
		show_console
		say "the guest took more than $timeout s and was stopped"
		exit 124
	elif [ -s "$run/fault" ]; then
		show_console
		die "$(cat "$run/fault")"
	elif grep -qE "$COMPLAINTS" "$run/console"; then
		show_console
		# Once more at the end: only that may be kept.
		die "the guest's kernel complained: $(grep -E -m 1 "$COMPLAINTS" "$run/console" | tr -d '\r')"
	elif [ -s "$run/leaks" ]; then
		cat "$run/leaks" >&2
		die "memory leaked"
	elif [ ! -s "$run/status" ]; then
		show_console
		die "the guest ended early (${ended}) and left no exit status"
	fi
	exit "$(cat "$run/status")"
}
