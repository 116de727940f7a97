/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rust/served.rs: sockets get timers, are closed, and the module leaves, all at once.
 *
 * A socket has a lock, a slot for its timers, and a reference count. Timers are in
 * the list of their CPU, are freed a grace period after they were taken from the
 * socket, and expire at any time until then. What must hold: nothing is used after it
 * was freed, nothing is freed twice, and when the module has left, no socket has
 * timers and all of them are free.
 *
 * Memory is sequentially consistent here. What has to be ordered besides is said at
 * the accesses: the timers before their address (release, and the dependency).
 *
 * Broken on purpose: WITHOUT_CLOSED_LIST WITHOUT_GRACE_PERIOD WITHOUT_CLEARED_OWNER
 */

#define SOCKS	2
#define NOTHING	255

byte	locked[SOCKS];		/* the socket's lock */
byte	slot[SOCKS] = NOTHING;	/* tcp_sk(sk)->hires: the timers' number is the socket's */
byte	refs[SOCKS];		/* besides that of TCP */
bool	gone[SOCKS];		/* the socket is freed */
bool	another[SOCKS];		/* its memory is that of another one by now */

bool	listed[SOCKS];		/* the timers are in the list */
bool	owner[SOCKS];		/* Owner: they point to their socket */
bool	made[SOCKS];
byte	pending[SOCKS];		/* call_rcu() */
bool	freed[SOCKS];

bool	list_lock;
bool	list_closed;
bool	off;			/* the static key */
bool	left;			/* the module's code is gone */
byte	readers;		/* RCU read-side critical sections */

inline lock(l) { atomic { !l -> l = true } }
inline unlock(l) { l = false }

inline use(t) { assert(made[t] && !freed[t]) }

/* SockTimer::release() and what RCU does after a grace period: no reader is left */
inline release_timer(t)
{
#ifndef WITHOUT_CLEARED_OWNER
	owner[t] = false;
#endif
	pending[t]++;
	assert(pending[t] == 1);
}

inline detach(s)
{
	assert(locked[s] && slot[s] != NOTHING);
	use(slot[s]);
	assert(!listed[slot[s]]);
	slot[s] = NOTHING;
	release_timer(s)
}

/* Owner::sock(), within RCU: a reference, or none */
inline sock(t, has)
{
	has = owner[t];
	if
	:: has ->
		atomic {
			has = !gone[t];
			if
			:: has -> refs[t]++
			:: else
			fi
		};
		if
		:: has && !owner[t] -> has = false; refs[t]--
		:: else
		fi;
		assert(!has || !another[t])
	:: else
	fi
}

/* TCP: a timer is started, perhaps, and then the socket is closed and freed */
proctype tcp(byte s)
{
	if
	:: true ->		/* Sockets::attach(), with the socket locked, within RCU */
		lock(locked[s]);
		readers++;
		if
		:: !off ->
			assert(!left && !made[s]);
			made[s] = true;
			owner[s] = true;
			lock(list_lock);
			if
			:: list_closed ->
				unlock(list_lock);
				made[s] = false;	/* dropped: nobody has seen them */
				owner[s] = false
			:: else ->
				listed[s] = true;
				unlock(list_lock);
				slot[s] = s
			fi
		:: else		/* the static key is off */
		fi;
		readers--;
		unlock(locked[s])
	:: true
	fi;

	/* release(), within RCU, with the socket locked */
	lock(locked[s]);
	readers++;
	if
	:: slot[s] != NOTHING ->
		assert(!left);
		use(slot[s]);
		lock(list_lock);
		listed[s] = false;
		unlock(list_lock);
		detach(s)
	:: else
	fi;
	readers--;
	unlock(locked[s]);

	/* SLAB_TYPESAFE_BY_RCU: no grace period lies between */
	atomic { refs[s] == 0 -> gone[s] = true };
	atomic { another[s] = true; gone[s] = false }
}

/* The hrtimer's callback: Owner::sock() */
proctype expiry(byte t)
{
	bool has;

	if
	:: atomic { made[t] && !freed[t] && owner[t] -> readers++ };
		sock(t, has);
		readers--;
		if
		:: has ->
			lock(locked[t]);
			if
			:: slot[t] != NOTHING -> use(slot[t])	/* HiresTimers::check() */
			:: else
			fi;
			unlock(locked[t]);
			refs[t]--
		:: else
		fi
	:: left
	fi
}

/* Who asks without the lock: __tcp_hires_expires() */
proctype reader(byte s)
{
	byte t;

	readers++;
	t = slot[s];
	if
	:: t != NOTHING -> use(t)
	:: else
	fi;
	readers--
}

/* RCU: a grace period has passed since call_rcu(), and callbacks of the timer have returned */
proctype rcu(byte t)
{
	end:
	atomic {
		pending[t] == 1 && readers == 0 ->
		assert(made[t] && !freed[t] && !listed[t] && slot[t] == NOTHING);
		freed[t] = true
	}
}

/* Served::leave(), and the end of the registration */
proctype leave()
{
	byte t;
	bool has;

#ifndef WITHOUT_CLOSED_LIST
	lock(list_lock);
	list_closed = true;
	unlock(list_lock);
#endif

	do
	:: true ->
		readers++;
		lock(list_lock);
		t = 0;
		do
		:: t < SOCKS && !listed[t] -> t++
		:: else -> break
		od;
		if
		:: t < SOCKS -> listed[t] = false
		:: else
		fi;
		unlock(list_lock);
		if
		:: t == SOCKS -> readers--; break
		:: else
		fi;
		use(t);				/* pop() has it within RCU */
		sock(t, has);
		readers--;
		if
		:: has ->
			lock(locked[t]);
			if
			:: slot[t] != NOTHING -> detach(t)
			:: else
			fi;
			unlock(locked[t]);
			refs[t]--
		:: else
		fi
	od;

	/* tcp_hires_unregister(): a grace period lies between, in which whoever has taken
	 * timers off the list takes them from the socket, too
	 */
	off = true;
#ifndef WITHOUT_GRACE_PERIOD
	readers == 0;
#endif
	left = true;
	t = 0;
	do
	:: t < SOCKS ->
		assert(slot[t] == NOTHING && !listed[t]);
		!made[t] || freed[t];		/* rcu_barrier() */
		t++
	:: else -> break
	od
}

init {
	byte s = 0;

	atomic {
		do
		:: s < SOCKS ->
			run tcp(s);
			run rcu(s);
			s++
		:: else -> break
		od;
		run expiry(0);
		run reader(0);
		run leave()
	}
}
