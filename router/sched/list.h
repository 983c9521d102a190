/* router/sched/list.h: lists of an array's elements by their numbers, linked within the elements: nothing is taken from the heap, and no order comes from
 * addresses. */
#ifndef FS_SCHED_LIST_H
#define FS_SCHED_LIST_H

#include "base/status.h"

#define FS_LIST_END UINT32_MAX

/* A member of each element; an element is in as many lists as it has links. */
typedef struct {
    uint32_t prev, next; /* FS_LIST_END: none */
} fs_link;

typedef struct {
    uint32_t first, last, length;
    fs_link *links; /* the first element's */
    size_t stride;  /* bytes from one element's to the next one's */
} fs_list;

/* An empty list; links: the first element's link, borrowed while the list lives; stride: an element's size. */
static inline fs_list fs_list_of(fs_link *links, size_t stride)
{
    return (fs_list){FS_LIST_END, FS_LIST_END, 0, links, stride};
}

static inline fs_link *fs_list_link(const fs_list *list, uint32_t at)
{
    return (fs_link *)((char *)list->links + at * list->stride);
}
static inline uint32_t fs_list_next(const fs_list *list, uint32_t at)
{
    return fs_list_link(list, at)->next;
}
static inline uint32_t fs_list_prev(const fs_list *list, uint32_t at)
{
    return fs_list_link(list, at)->prev;
}

/* Behind prev, which is in the list; FS_LIST_END: before all. */
static inline void fs_list_insert(fs_list *list, uint32_t prev, uint32_t at)
{
    uint32_t next = prev == FS_LIST_END ? list->first : fs_list_next(list, prev);
    *fs_list_link(list, at) = (fs_link){prev, next};
    *(prev == FS_LIST_END ? &list->first : &fs_list_link(list, prev)->next) = at;
    *(next == FS_LIST_END ? &list->last : &fs_list_link(list, next)->prev) = at;
    list->length++;
}
static inline void fs_list_push(fs_list *list, uint32_t at)
{
    fs_list_insert(list, list->last, at);
}
static inline void fs_list_take(fs_list *list, uint32_t at)
{
    fs_link link = *fs_list_link(list, at);
    *(link.prev == FS_LIST_END ? &list->first : &fs_list_link(list, link.prev)->next) = link.next;
    *(link.next == FS_LIST_END ? &list->last : &fs_list_link(list, link.next)->prev) = link.prev;
    list->length--;
}

/* Asserts that the links agree with each other and the length, both ways. For tests. */
static inline void fs_list_check(const fs_list *list)
{
    uint32_t length = 0, prev = FS_LIST_END;
    for (uint32_t at = list->first; at != FS_LIST_END; prev = at, at = fs_list_next(list, at)) {
        FS_ASSERT(++length <= list->length); /* ends a ring, too */
        FS_ASSERT(fs_list_prev(list, at) == prev);
    }
    FS_ASSERT(list->last == prev && length == list->length);
}

#endif
