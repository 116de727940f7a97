// SPDX-License-Identifier: GPL-2.0
/*
 * Chance and date for User-mode Linux, the same in every run: preloaded into it
 * by "scripts/sim --seed N".
 *
 * getrandom() is where the guest's kernel has its randomness from: what it
 * hashes, which ports and sequence numbers it takes, what a qdisc drops by chance
 * and what the guest's programs get all follow from FINETCP_SEED. It stirs in what
 * its clock says when it starts, and has that from the host, too. (There is a
 * parameter for that, time-travel-start, but "time-travel" takes it for its own.)
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;

__attribute__((constructor)) static void seed(void)
{
	const char *s = getenv("FINETCP_SEED");

	state = s ? strtoull(s, NULL, 10) : 0;
}

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014) */
static uint64_t next(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

ssize_t getrandom(void *buf, size_t size, unsigned int flags)
{
	unsigned char *p = buf;
	size_t left, n;
	uint64_t x;

	(void)flags;
	for (left = size; left; left -= n, p += n) {
		x = next();
		n = left < sizeof(x) ? left : sizeof(x);
		memcpy(p, &x, n);
	}
	return size;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	if (clock != CLOCK_REALTIME)
		return syscall(SYS_clock_gettime, clock, ts);
	*ts = (struct timespec){ .tv_sec = 1577836800 };	/* 2020-01-01 */
	return 0;
}
