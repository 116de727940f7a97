/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rust/tsq.rs, src/tsq.rs: a socket that has too much in its queue waits, and whoever
 * frees a packet sees to it that it goes on.
 *
 * The sender sets THROTTLED when there is too much, looks again, and waits. Whoever
 * frees a packet turns THROTTLED into QUEUED, at once for the one that does it, and puts
 * the socket into a queue, whose tasklet takes QUEUED away and lets it send. What must
 * hold: in the end all is sent, and the socket is in one queue at most.
 *
 * Broken on purpose: WITHOUT_SECOND_LOOK WITHOUT_EXCLUSION CLEARED_AFTER_SENDING
 */

#define PACKETS	3
#define LIMIT	1

byte	unsent = PACKETS;
byte	below;			/* sk_wmem_alloc */
bool	throttled, queued;	/* sk_tsq_flags */
byte	entries;		/* how often the socket is in a queue */
bool	locked;			/* the socket's lock */

/* tcp_write_xmit(), with the socket locked */
inline send()
{
	do
	:: unsent > 0 ->
		if
		:: below >= LIMIT ->		/* tcp_small_queue_check() */
			throttled = true;
#ifdef WITHOUT_SECOND_LOOK
			break
#else
			if
			:: below >= LIMIT -> break
			:: else		/* some of it went meanwhile */
			fi
#endif
		:: else
		fi;
		atomic { unsent--; below++ }
	:: else -> break
	od
}

proctype sender()
{
	atomic { !locked -> locked = true };
	send();
	locked = false
}

/* tcp_wfree() of each packet, on two CPUs */
proctype device()
{
	bool was;

	end:
	do
	:: atomic { below > 0 -> below-- };
		/* Freed::throttled() */
#ifdef WITHOUT_EXCLUSION
		was = throttled;
		if
		:: was -> throttled = false; queued = true
		:: else
		fi;
#else
		atomic {
			was = throttled && !queued;
			if
			:: was -> throttled = false; queued = true
			:: else
			fi
		};
#endif
		if
		:: was ->
			atomic { entries++; assert(entries == 1) }
		:: else
		fi
	od
}

/* Throttled::resume(), in a tasklet */
proctype tasklet()
{
	end:
	do
	:: atomic { entries > 0 -> entries-- };
#ifndef CLEARED_AFTER_SENDING
		queued = false;
#endif
		atomic { !locked -> locked = true };
		send();
		locked = false;
#ifdef CLEARED_AFTER_SENDING
		queued = false
#endif
	od
}

/* Once nothing happens any more, all is sent */
active proctype finally()
{
	end:
	atomic { timeout -> assert(unsent == 0 && below == 0 && entries == 0) }
}

init {
	atomic {
		run sender();
		run device();
		run device();
		run tasklet()
	}
}
