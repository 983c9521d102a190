/* router/sched/pages.h: who holds which page of the KV cache. Pages are counted by reference, so that sequences that begin alike share
 * what they have in common (prefix caching, as in vLLM, arXiv 2309.06180, section 4.4). A core without input and output: it knows numbers of
 * pages and the ids of tokens, not what the pages hold. */
#ifndef FS_SCHED_PAGES_H
#define FS_SCHED_PAGES_H

#include "base/status.h"

#define FS_PAGES_NONE UINT32_MAX

/* A page is blank (nobody's), held (by one sequence or more), or idle: nobody's, but what it holds is known and may be asked for again. Idle pages are given
 * out when no blank one is left, the one whose last holder left first before the others. Only full pages are ever shared, and
 * nobody writes to one from then on. Thread: loop */
typedef struct fs_pages fs_pages;

/* share: false: nothing is ever found again. FS_INVALID: a number is 0; FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_pages_create(uint32_t num_pages, uint32_t page_tokens, bool share, fs_pages **out);
void fs_pages_destroy(fs_pages *pages); /* NULL is allowed */

/* n pages for the caller alone, n <= fs_pages_num_free. out [n]. */
void fs_pages_take(fs_pages *pages, uint32_t n, uint32_t *out);
/* One holder less for each; given in the order of a sequence, so that of idle ones its last goes first: what follows a page is of no use without it. */
void fs_pages_release(fs_pages *pages, const uint32_t *page, uint32_t n);

/* A held page is full: it holds page_tokens tokens (token, copied) after those of `previous`, its sequence's page before it (published; NONE: it
 * is the first). From now on it can be found. Returns the page that the caller holds from now on: this one, or another that holds the same, and then this one
 * is given back: equal pages become one. */
uint32_t fs_pages_publish(fs_pages *pages, uint32_t page, uint32_t previous, const uint32_t *token);
/* The longest chain of published pages that hold token [max_pages][page_tokens] from a sequence's beginning. The caller holds them from now on.
 * out [max_pages]; returns how many. Token ids are compared, not hashes. */
uint32_t fs_pages_match(fs_pages *pages, const uint32_t *token, uint32_t max_pages, uint32_t *out);

/* blank + idle */
uint32_t fs_pages_num_free(const fs_pages *pages);
uint32_t fs_pages_num_idle(const fs_pages *pages);

/* Asserts every invariant. holders [num_pages]: how many the caller knows of each page. For tests. */
void fs_pages_check(const fs_pages *pages, const uint32_t *holders);

#endif
