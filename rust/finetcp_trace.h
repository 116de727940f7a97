/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's trace events. See Documentation/tracing.rst.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM finetcp

#if !defined(_FINETCP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _FINETCP_TRACE_H

#include <linux/tracepoint.h>
#include <net/tcp.h>

/* What an event's kind is, if it is about a timer: ICSK_TIME_* */
#define show_timer(kind)				\
	__print_symbolic(kind,				\
		{ ICSK_TIME_RETRANS, "retransmit" },	\
		{ ICSK_TIME_DACK, "delack" },		\
		{ ICSK_TIME_PROBE0, "probe0" },		\
		{ ICSK_TIME_LOSS_PROBE, "loss_probe" },	\
		{ ICSK_TIME_REO_TIMEOUT, "reorder" })

/* And if it is about an extra run: extra_run::Said in rust/extra_run.rs */
#define show_extra_run(kind)				\
	__print_symbolic(kind,				\
		{ 1, "granted" },			\
		{ 2, "overdue" },			\
		{ 3, "unpaid" },			\
		{ 4, "yielded" })

DECLARE_EVENT_CLASS(finetcp_sock,

	TP_PROTO(const struct sock *sk, int kind, u64 ns),

	TP_ARGS(sk, kind, ns),

	TP_STRUCT__entry(
		__field(const void *, skaddr)
		__field(__u64, ns)
		__field(int, kind)
		__field(__u16, sport)
		__field(__u16, dport)
		__field(__u16, family)
		__array(__u8, saddr, sizeof(struct sockaddr_in6))
		__array(__u8, daddr, sizeof(struct sockaddr_in6))
	),

	TP_fast_assign(
		const struct inet_sock *inet = inet_sk(sk);

		__entry->skaddr = sk;
		__entry->ns = ns;
		__entry->kind = kind;
		__entry->sport = ntohs(inet->inet_sport);
		__entry->dport = ntohs(inet->inet_dport);
		__entry->family = sk->sk_family;

		memset(__entry->saddr, 0, sizeof(struct sockaddr_in6));
		memset(__entry->daddr, 0, sizeof(struct sockaddr_in6));
		TP_STORE_ADDR_PORTS(__entry, inet, sk);
	),

	TP_printk("skaddr=%p kind=%s ns=%llu family=%s src=%pISpc dest=%pISpc",
		  __entry->skaddr, show_timer(__entry->kind), __entry->ns,
		  show_family_name(__entry->family),
		  __entry->saddr, __entry->daddr)
);

/* @ns: from now to the deadline */
DEFINE_EVENT(finetcp_sock, tcp_timer_start,
	TP_PROTO(const struct sock *sk, int kind, u64 ns),
	TP_ARGS(sk, kind, ns)
);

/* @ns: from the deadline to now. A delayed ACK that nothing else has carried is
 * sent right after this.
 */
DEFINE_EVENT(finetcp_sock, tcp_timer_expire,
	TP_PROTO(const struct sock *sk, int kind, u64 ns),
	TP_ARGS(sk, kind, ns)
);

/* @ns: what was granted, or for how long somebody has been due */
DEFINE_EVENT_PRINT(finetcp_sock, tcp_extra_run,
	TP_PROTO(const struct sock *sk, int kind, u64 ns),
	TP_ARGS(sk, kind, ns),
	TP_printk("skaddr=%p kind=%s ns=%llu family=%s src=%pISpc dest=%pISpc",
		  __entry->skaddr, show_extra_run(__entry->kind), __entry->ns,
		  show_family_name(__entry->family),
		  __entry->saddr, __entry->daddr)
);

#endif /* _FINETCP_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE finetcp_trace
#include <trace/define_trace.h>
