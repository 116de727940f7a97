// SPDX-License-Identifier: GPL-2.0
/*
 * Defines the trace events: what only C macros can make.
 */
#include <trace/events/net_probe_common.h>
#include <trace/events/sock.h>		/* show_family_name() */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "finetcp_trace.h"
