// SPDX-License-Identifier: GPL-2.0
/*
 * traffic: one client that asks many servers.
 *
 * In synchronised fan-in reads, the traffic that makes TCP collapse, the client
 * reads one block that is striped over the servers: it asks every server for its
 * share, waits until the last byte of the last share is there, and only then asks
 * for the next block (the "fixed block" workload of Vasudevan et al., SIGCOMM
 * 2009). One lost tail holds up the whole block. With --share, each share is that
 * large instead, however many servers there are.
 *
 * With --independent no server waits for another: each is asked again when its
 * own answer is there, and what is measured is an answer instead of a block. With
 * --reconnect each request has a connection of its own.
 *
 * Both sides are event driven and sleep whenever there is nothing to do, so
 * the program can run on a virtual clock that stands still while anything
 * spins. One server process serves any number of addresses.
 *
 * On the wire: a request is a 64-bit big-endian byte count; the answer is that
 * many bytes of a pattern which runs on from request to request, so a lost,
 * doubled or misplaced byte shows at once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <error.h>
#include <getopt.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK		(256 * 1024)
#define PERIOD		4093	/* prime, so that no power of two maps the pattern onto itself */
#define NSEC_PER_SEC	1000000000LL
#define DEFAULT_PORT	5000
#define MAX_SERVERS	60000

static unsigned char pattern[PERIOD + CHUNK];
static unsigned char chunk[CHUNK];

struct options {
	struct in_addr	first;		/* address of the first server; the others follow it */
	uint16_t	port;
	unsigned int	servers;
	const char	*device;	/* server i listens on the device named <device><i> */
	bool		background;
	uint64_t	block;
	uint64_t	share[2];	/* least and most bytes of a server; 0: its part of the block */
	bool		independent;
	bool		reconnect;
	uint64_t	pause;		/* us on average, between an answer or block and the next request */
	uint64_t	spread;		/* us over which the requests for a block go out */
	uint32_t	seed;
	unsigned int	warmup;
	unsigned int	rounds;
	unsigned int	min_rounds;
	double		budget;		/* seconds for the measured rounds, 0: no limit */
	unsigned int	timeout;	/* seconds without a byte */
	const char	*csv;
};

/* One TCP connection, on either side. */
struct conn {
	int		fd;
	bool		listener;
	uint64_t	pos;		/* offset in the stream of answers */
	uint64_t	left;		/* bytes still owed of the current answer */
	unsigned char	req[8];
	unsigned int	req_len;
	/* of the client: */
	unsigned int	server;
	uint64_t	share;		/* bytes to ask for */
	int64_t		asked;		/* when */
	unsigned int	answers;	/* whole ones */
};

static void fill_pattern(void)
{
	uint32_t x = 1;
	size_t i;

	for (i = 0; i < PERIOD; i++) {
		x = x * 1664525 + 1013904223;
		pattern[i] = x >> 24;
	}
	for (; i < sizeof(pattern); i++)
		pattern[i] = pattern[i - PERIOD];
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static struct sockaddr_in server_addr(const struct options *o, unsigned int i)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(o->port),
		.sin_addr.s_addr = htonl(ntohl(o->first.s_addr) + i),
	};

	return sin;
}

static uint32_t random_state;

/* From 0 to @n - 1, the same ones in every run (xorshift32, Marsaglia 2003) */
static uint32_t below(uint64_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state % n;
}

static const char *server_name(const struct options *o, unsigned int i)
{
	static char name[INET_ADDRSTRLEN + 8];
	struct sockaddr_in sin = server_addr(o, i);
	char ip[INET_ADDRSTRLEN];

	snprintf(name, sizeof(name), "%s:%u",
		 inet_ntop(AF_INET, &sin.sin_addr, ip, sizeof(ip)), o->port);
	return name;
}

static void set_int(int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)))
		error(1, errno, "setsockopt %d/%d", level, name);
}

static void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		error(1, ENOMEM, "%zu objects of %zu bytes", n, size);
	return p;
}

/* Room for @n descriptors and the few the program has besides. */
static void raise_fd_limit(rlim_t n)
{
	struct rlimit r;

	n += 32;
	if (getrlimit(RLIMIT_NOFILE, &r))
		error(1, errno, "getrlimit");
	if (r.rlim_cur >= n)
		return;
	r.rlim_cur = n;
	if (r.rlim_max < n)
		r.rlim_max = n;
	if (setrlimit(RLIMIT_NOFILE, &r))
		error(1, errno, "cannot open %llu files", (unsigned long long)n);
}

static void epoll_add(int ep, struct conn *c, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = c };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev))
		error(1, errno, "epoll_ctl");
}

/* Server */

static void server_listen(const struct options *o, unsigned int i, struct conn *c)
{
	struct sockaddr_in sin = server_addr(o, i);
	char dev[IFNAMSIZ];

	c->listener = true;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		error(1, errno, "socket");
	set_int(c->fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (o->device) {
		int n = snprintf(dev, sizeof(dev), "%s%u", o->device, i + 1);

		if (n >= (int)sizeof(dev))
			error(1, 0, "device name %s%u is too long", o->device, i + 1);
		if (setsockopt(c->fd, SOL_SOCKET, SO_BINDTODEVICE, dev, n))
			error(1, errno, "cannot bind to device %s", dev);
	}
	if (bind(c->fd, (struct sockaddr *)&sin, sizeof(sin)))
		error(1, errno, "cannot bind to %s", server_name(o, i));
	if (listen(c->fd, 16))
		error(1, errno, "cannot listen on %s", server_name(o, i));
}

static void server_accept(int ep, struct conn *l)
{
	struct conn *c;
	int fd;

	for (;;) {
		fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno == EAGAIN || errno == ECONNABORTED)
				return;
			error(1, errno, "accept");
		}
		set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		c = xcalloc(1, sizeof(*c));
		c->fd = fd;
		epoll_add(ep, c, EPOLLIN | EPOLLOUT | EPOLLET);
	}
}

/* Read requests until there are none. False when the client is gone. */
static bool server_read(struct conn *c)
{
	uint64_t be;
	ssize_t n;

	for (;;) {
		n = read(c->fd, c->req + c->req_len, sizeof(c->req) - c->req_len);
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		c->req_len += n;
		if (c->req_len == sizeof(c->req)) {
			memcpy(&be, c->req, sizeof(be));
			c->left += be64toh(be);
			c->req_len = 0;
		}
	}
}

/* Send what is owed until the socket is full. False when the client is gone. */
static bool server_write(struct conn *c)
{
	ssize_t n;

	while (c->left) {
		n = send(c->fd, pattern + c->pos % PERIOD,
			 c->left < CHUNK ? c->left : CHUNK, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN;
		c->pos += n;
		c->left -= n;
	}
	return true;
}

static int run_server(const struct options *o)
{
	struct epoll_event ev[64];
	struct conn *listeners, *c;
	unsigned int i;
	int ep, n;

	raise_fd_limit(2 * (rlim_t)o->servers);
	listeners = xcalloc(o->servers, sizeof(*listeners));
	for (i = 0; i < o->servers; i++)
		server_listen(o, i, &listeners[i]);

	/* Every address answers from here on: tell, by letting the caller go. */
	if (o->background) {
		pid_t pid = fork();

		if (pid < 0)
			error(1, errno, "fork");
		if (pid) {
			printf("%d\n", pid);
			return 0;
		}
		/* Whoever reads our output must see its end. */
		if (!freopen("/dev/null", "w", stdout))
			error(1, errno, "/dev/null");
	}

	ep = epoll_create1(EPOLL_CLOEXEC);
	if (ep < 0)
		error(1, errno, "epoll_create");
	for (i = 0; i < o->servers; i++)
		epoll_add(ep, &listeners[i], EPOLLIN);

	for (;;) {
		n = epoll_wait(ep, ev, 64, -1);
		if (n < 0 && errno != EINTR)
			error(1, errno, "epoll_wait");
		while (n-- > 0) {
			c = ev[n].data.ptr;
			if (c->listener) {
				server_accept(ep, c);
			} else if (!server_read(c) || !server_write(c)) {
				close(c->fd);
				free(c);
			}
		}
	}
}

/* Client */

/* A request that is due at some time. Those of one time keep their order. */
struct due {
	int64_t		at;
	uint64_t	number;
	struct conn	*conn;
};

struct client {
	const struct options *o;
	struct conn	*conns;
	int		ep;
	struct epoll_event ev[64];
	int		ready;		/* of ev, not yet looked at */
	struct due	*heap;		/* of all requests to come */
	unsigned int	due;
	uint64_t	number;		/* of the next one */
	uint64_t	bytes;		/* of all answers */
};

static void client_connect(struct client *cl, struct conn *c)
{
	const struct options *o = cl->o;
	struct sockaddr_in sin = server_addr(o, c->server);
	struct timeval tv = { .tv_sec = o->timeout };

	/* To reconnect must not hold up the others; to begin with, one waits for the other. */
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (o->reconnect ? SOCK_NONBLOCK : 0), 0);
	if (c->fd < 0)
		error(1, errno, "socket");
	set_int(c->fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
		error(1, errno, "SO_SNDTIMEO");
	if (connect(c->fd, (struct sockaddr *)&sin, sizeof(sin)) && !(o->reconnect && errno == EINPROGRESS))
		error(1, errno == EINPROGRESS ? ETIMEDOUT : errno,
		      "cannot connect to %s", server_name(o, c->server));
	c->pos = 0;
	epoll_add(cl->ep, c, o->reconnect ? EPOLLOUT : EPOLLIN);
}

static void client_ask(struct client *cl, struct conn *c)
{
	uint64_t be = htobe64(c->share);

	c->left = c->share;
	if (send(c->fd, &be, sizeof(be), MSG_NOSIGNAL) != sizeof(be))
		error(1, errno, "cannot send a request to %s", server_name(cl->o, c->server));
}

static void client_connected(struct client *cl, struct conn *c)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };
	int err;
	socklen_t len = sizeof(err);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) || err)
		error(1, err ? err : errno, "cannot connect to %s", server_name(cl->o, c->server));
	if (epoll_ctl(cl->ep, EPOLL_CTL_MOD, c->fd, &ev))
		error(1, errno, "epoll_ctl");
	client_ask(cl, c);
}

/* Read what is there and compare it with what must be there. True once the share is whole. */
static bool client_read(struct client *cl, struct conn *c)
{
	ssize_t n = recv(c->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	const char *name = server_name(cl->o, c->server);

	if (n < 0) {
		if (errno == EAGAIN)
			return false;
		error(1, errno, "cannot read from %s", name);
	}
	if (n == 0)
		error(1, 0, "%s closed the connection with %llu bytes to go", name,
		      (unsigned long long)c->left);
	if ((uint64_t)n > c->left)
		error(1, 0, "%s sent %llu bytes too many", name, (unsigned long long)(n - c->left));
	if (memcmp(chunk, pattern + c->pos % PERIOD, n))
		error(1, 0, "%s sent wrong bytes in %llu..%llu", name,
		      (unsigned long long)c->pos, (unsigned long long)(c->pos + n - 1));
	c->pos += n;
	c->left -= n;
	cl->bytes += n;
	if (c->left)
		return false;
	c->answers++;
	if (cl->o->reconnect)
		close(c->fd);
	return true;
}

static bool earlier(const struct due *a, const struct due *b)
{
	return a->at != b->at ? a->at < b->at : a->number < b->number;
}

/* Ask @c at the time @at for what @c->share says by then. */
static void client_schedule(struct client *cl, struct conn *c, int64_t at)
{
	struct due new = { .at = at, .number = cl->number++, .conn = c };
	unsigned int i = cl->due++, up;

	for (; i && earlier(&new, &cl->heap[up = (i - 1) / 2]); i = up)
		cl->heap[i] = cl->heap[up];
	cl->heap[i] = new;
}

static struct conn *client_pop(struct client *cl)
{
	struct conn *c = cl->heap[0].conn;
	struct due last = cl->heap[--cl->due];
	unsigned int i = 0, down;

	while ((down = 2 * i + 1) < cl->due) {
		if (down + 1 < cl->due && earlier(&cl->heap[down + 1], &cl->heap[down]))
			down++;
		if (!earlier(&cl->heap[down], &last))
			break;
		cl->heap[i] = cl->heap[down];
		i = down;
	}
	cl->heap[i] = last;
	return c;
}

/* Ask who is to be asked, and wait until an answer is whole; whose? */
static struct conn *client_next(struct client *cl)
{
	struct timespec ts;
	struct conn *c;
	int64_t now, wait;

	for (;;) {
		while (cl->ready) {
			struct epoll_event *ev = &cl->ev[--cl->ready];

			c = ev->data.ptr;
			if (ev->events & EPOLLOUT)
				client_connected(cl, c);
			else if (client_read(cl, c))
				return c;
		}
		now = now_ns();
		while (cl->due && cl->heap[0].at <= now) {
			c = client_pop(cl);
			c->asked = now;
			if (cl->o->reconnect)
				client_connect(cl, c);
			else
				client_ask(cl, c);
		}
		wait = cl->due ? cl->heap[0].at - now : cl->o->timeout * NSEC_PER_SEC;
		ts.tv_sec = wait / NSEC_PER_SEC;
		ts.tv_nsec = wait % NSEC_PER_SEC;
		cl->ready = epoll_pwait2(cl->ep, cl->ev, 64, &ts, NULL);
		if (cl->ready < 0) {
			if (errno != EINTR)
				error(1, errno, "epoll_pwait2");
			cl->ready = 0;
		} else if (!cl->ready && !cl->due) {
			error(1, 0, "no progress for %u s", cl->o->timeout);
		}
	}
}

/* What to ask server @i for. What is left of a block after an even split goes to the first. */
static uint64_t client_share(const struct options *o, unsigned int i)
{
	if (o->share[0])
		return o->share[0] + below(o->share[1] - o->share[0] + 1);
	return o->block / o->servers + (i < o->block % o->servers);
}

/*
 * Put @order into a new order. Were it always the same, the first to be asked
 * would always find the switch empty and the last would always find it full: on
 * exact clocks a drop-tail queue picks its victims by position.
 */
static void shuffle(unsigned int *order, unsigned int n)
{
	unsigned int i, j, tmp;

	for (i = n - 1; i > 0; i--) {
		j = below(i + 1);
		tmp = order[i];
		order[i] = order[j];
		order[j] = tmp;
	}
}

static int64_t client_pause(const struct options *o)
{
	return o->pause ? below(2 * o->pause * 1000) : 0;
}

/* Read one block and return how long it took. */
static int64_t client_round(struct client *cl, unsigned int *order)
{
	int64_t start = now_ns() + client_pause(cl->o);
	const struct options *o = cl->o;
	unsigned int i, waiting = 0;

	shuffle(order, o->servers);
	for (i = 0; i < o->servers; i++) {
		struct conn *c = &cl->conns[order[i]];

		c->share = client_share(o, order[i]);
		waiting += !!c->share;
		client_schedule(cl, c, start + (o->spread ? below(o->spread * 1000) : 0));
	}
	while (waiting) {
		client_next(cl);
		waiting--;
	}
	return now_ns() - start;
}

static int cmp_ns(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static void write_csv(const char *path, const int64_t *ns, unsigned int n)
{
	FILE *f = fopen(path, "w");
	unsigned int i;

	if (!f)
		error(1, errno, "%s", path);
	fprintf(f, "round,block_ms\n");
	for (i = 0; i < n; i++)
		fprintf(f, "%u,%.6f\n", i, ns[i] / 1e6);
	if (fclose(f))
		error(1, errno, "%s", path);
}

/* The block time that a fraction @q of @n sorted blocks stays within, in ms. */
static double quantile_ms(const int64_t *sorted, unsigned int n, double q)
{
	unsigned int rank = q * n;

	if (rank < q * n)
		rank++;
	return sorted[rank ? rank - 1 : 0] / 1e6;
}

/* Whether there is more to measure, with @done rounds in the time since @start */
static bool more(const struct options *o, unsigned int done, int64_t start)
{
	return done < o->rounds &&
	       (done < o->min_rounds || !o->budget || (now_ns() - start) / 1e9 < o->budget);
}

/* Blocks, one after the other; returns how many, and their times in @ns. */
static unsigned int run_blocks(struct client *cl, int64_t *ns, int64_t *start)
{
	const struct options *o = cl->o;
	unsigned int i, done = 0, *order = xcalloc(o->servers, sizeof(*order));

	for (i = 0; i < o->servers; i++)
		order[i] = i;
	for (i = 0; i < o->warmup; i++)
		client_round(cl, order);
	cl->bytes = 0;
	*start = now_ns();
	do {
		ns[done++] = client_round(cl, order);
	} while (more(o, done, *start));
	return done;
}

/* Answers, those of each server on their own; returns how many, and their times in @ns. */
static unsigned int run_answers(struct client *cl, int64_t *ns, int64_t *start)
{
	const struct options *o = cl->o;
	unsigned int i, done = 0, busy = o->servers;
	struct conn *c;

	*start = now_ns();
	for (i = 0; i < o->servers; i++) {
		c = &cl->conns[i];
		c->share = client_share(o, i);
		client_schedule(cl, c, *start + client_pause(o));
	}
	while (busy) {
		c = client_next(cl);
		if (c->answers > o->warmup)
			ns[done++] = now_ns() - c->asked;
		if (c->answers < o->warmup || more(o, c->answers - o->warmup, *start)) {
			c->share = client_share(o, c->server);
			client_schedule(cl, c, now_ns() + client_pause(o));
		} else {
			busy--;
		}
	}
	return done;
}

static int run_client(const struct options *o)
{
	struct client cl = { .o = o, .ep = epoll_create1(EPOLL_CLOEXEC) };
	unsigned int i, done;
	int64_t *ns, start;
	double seconds;

	if (cl.ep < 0)
		error(1, errno, "epoll_create");
	if (!o->share[0] && o->block < o->servers && (o->independent || o->reconnect))
		error(2, 0, "a block of %llu bytes leaves nothing for some of %u servers",
		      (unsigned long long)o->block, o->servers);
	raise_fd_limit(o->servers);
	random_state = 2463534242 + o->seed * 2654435761u;
	if (!random_state)
		random_state = 1;
	cl.conns = xcalloc(o->servers, sizeof(*cl.conns));
	cl.heap = xcalloc(o->servers, sizeof(*cl.heap));
	ns = xcalloc((size_t)o->rounds * (o->independent ? o->servers : 1), sizeof(*ns));
	for (i = 0; i < o->servers; i++) {
		cl.conns[i].server = i;
		if (!o->reconnect)
			client_connect(&cl, &cl.conns[i]);
	}

	done = (o->independent ? run_answers : run_blocks)(&cl, ns, &start);
	seconds = (now_ns() - start) / 1e9;

	if (o->csv)
		write_csv(o->csv, ns, done);
	qsort(ns, done, sizeof(*ns), cmp_ns);
	printf("senders=%u block_bytes=%llu rounds=%u time_s=%.6f goodput_mbit=%.1f "
	       "median_block_ms=%.3f p99_block_ms=%.3f p999_block_ms=%.3f worst_block_ms=%.3f\n",
	       o->servers, (unsigned long long)o->block, done, seconds,
	       cl.bytes * 8.0 / seconds / 1e6, quantile_ms(ns, done, 0.5),
	       quantile_ms(ns, done, 0.99), quantile_ms(ns, done, 0.999), ns[done - 1] / 1e6);
	return 0;
}

/* Command line */

static void usage(FILE *f)
{
	fprintf(f,
"usage: traffic server [OPTION]...\n"
"       traffic client [OPTION]...\n"
"\n"
"Measure synchronised fan-in reads: the client asks every server for its share\n"
"of a block, waits for all of them, and repeats. Or let it ask each server on its\n"
"own, and measure the answers.\n"
"\n"
"Both:\n"
"  -n, --servers N        number of servers (default 1)\n"
"  -a, --first ADDR       IPv4 address of the first server, the others have the\n"
"                         addresses after it (default 127.0.0.1)\n"
"  -p, --port PORT        TCP port (default %u)\n"
"  -h, --help             show this text\n"
"\n"
"Server: answers on all N addresses until it is killed.\n"
"  -d, --device PREFIX    bind server i to the device PREFIXi (i from 1)\n"
"  -g, --background       return once all addresses answer, and print the\n"
"                         process id of the server left behind\n"
"\n"
"Client: prints one line of key=value.\n"
"  -b, --block BYTES      size of a block over all servers (default 1048576)\n"
"  -s, --share MIN[-MAX]  bytes to ask each server for instead, at random\n"
"  -i, --independent      ask each server again once its own answer is there; what\n"
"                         is said of blocks below holds for answers of a server\n"
"  -R, --reconnect        with a new connection for each request\n"
"  -P, --pause US         before the next request or block, 0 to twice that\n"
"  -S, --spread US        over how long the requests for a block go out (default 0)\n"
"  -N, --seed N           for all that is random here (default 0)\n"
"  -w, --warm-up N        blocks before those that count (default 2)\n"
"  -r, --rounds N         most blocks to measure (default 100)\n"
"  -m, --min-rounds N     fewest blocks to measure (default 5)\n"
"  -B, --budget SECONDS   after the fewest, measure no longer than this\n"
"                         (default 0: all rounds)\n"
"  -t, --timeout SECONDS  fail after so long without a byte (default 60)\n"
"  -c, --blocks-csv FILE  write the time of every block to FILE\n", DEFAULT_PORT);
}

static uint64_t number(const char *what, const char *s, uint64_t min, uint64_t max)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno || end == s || *end || *s == '-' || v < min || v > max)
		error(2, 0, "%s: '%s' is not a number from %llu to %llu", what, s,
		      (unsigned long long)min, (unsigned long long)max);
	return v;
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "servers",	required_argument, NULL, 'n' },
		{ "first",	required_argument, NULL, 'a' },
		{ "port",	required_argument, NULL, 'p' },
		{ "device",	required_argument, NULL, 'd' },
		{ "background",	no_argument,	   NULL, 'g' },
		{ "block",	required_argument, NULL, 'b' },
		{ "share",	required_argument, NULL, 's' },
		{ "independent", no_argument,	   NULL, 'i' },
		{ "reconnect",	no_argument,	   NULL, 'R' },
		{ "pause",	required_argument, NULL, 'P' },
		{ "spread",	required_argument, NULL, 'S' },
		{ "seed",	required_argument, NULL, 'N' },
		{ "warm-up",	required_argument, NULL, 'w' },
		{ "rounds",	required_argument, NULL, 'r' },
		{ "min-rounds",	required_argument, NULL, 'm' },
		{ "budget",	required_argument, NULL, 'B' },
		{ "timeout",	required_argument, NULL, 't' },
		{ "blocks-csv",	required_argument, NULL, 'c' },
		{ "help",	no_argument,	   NULL, 'h' },
		{ }
	};
	struct options o = {
		.first.s_addr = htonl(INADDR_LOOPBACK),
		.port = DEFAULT_PORT,
		.servers = 1,
		.block = 1 << 20,
		.warmup = 2,
		.rounds = 100,
		.min_rounds = 5,
		.timeout = 60,
	};
	const char *mode;
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "n:a:p:d:gb:s:iRP:S:N:w:r:m:B:t:c:h", longopts, NULL)) != -1) {
		switch (c) {
		case 'n':
			o.servers = number("--servers", optarg, 1, MAX_SERVERS);
			break;
		case 'a':
			if (inet_pton(AF_INET, optarg, &o.first) != 1)
				error(2, 0, "--first: '%s' is not an IPv4 address", optarg);
			break;
		case 'p':
			o.port = number("--port", optarg, 1, 65535);
			break;
		case 'd':
			o.device = optarg;
			break;
		case 'g':
			o.background = true;
			break;
		case 'b':
			o.block = number("--block", optarg, 1, 1ULL << 40);
			break;
		case 's':
			end = strchr(optarg, '-');
			if (end)
				*end++ = 0;
			o.share[0] = number("--share", optarg, 1, UINT32_MAX);
			o.share[1] = end ? number("--share", end, o.share[0], UINT32_MAX) : o.share[0];
			break;
		case 'i':
			o.independent = true;
			break;
		case 'R':
			o.reconnect = true;
			break;
		case 'P':
			o.pause = number("--pause", optarg, 0, 1000000);
			break;
		case 'S':
			o.spread = number("--spread", optarg, 0, 1000000);
			break;
		case 'N':
			o.seed = number("--seed", optarg, 0, UINT32_MAX);
			break;
		case 'w':
			o.warmup = number("--warm-up", optarg, 0, 1000000);
			break;
		case 'r':
			o.rounds = number("--rounds", optarg, 1, 10000000);
			break;
		case 'm':
			o.min_rounds = number("--min-rounds", optarg, 1, 10000000);
			break;
		case 'B':
			o.budget = strtod(optarg, &end);
			if (end == optarg || *end || !(o.budget >= 0))
				error(2, 0, "--budget: '%s' is not a time in seconds", optarg);
			break;
		case 't':
			o.timeout = number("--timeout", optarg, 1, 1000000);
			break;
		case 'c':
			o.csv = optarg;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	mode = argc - optind == 1 ? argv[optind] : "";

	fill_pattern();
	if (!strcmp(mode, "server"))
		return run_server(&o);
	if (!strcmp(mode, "client"))
		return run_client(&o);
	usage(stderr);
	return 2;
}
