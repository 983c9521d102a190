/* expert_node/cache/victim.c: the policies: how soon each key is thought to be used again, and who is let go. */
#include "cache/cache_int.h"

/* How likely a visit of its layer uses a key is told by two averages over the visits so far: a slow one, which forgets a half in 177
 * visits, for what the model and its users favour, and a fast one, which forgets a half in each, for texts that stay with their experts.
 * Which of them to believe is learnt: a use moves the fast one's share towards its part in having foretold it (expectation maximisation
 * of a mixture of the two, a use at a time). */
#define SLOW_DECAY   (255.0 / 256.0)
#define FAST_DECAY   (1.0 / 2.0)
#define SHARE_FIRST  0.1
#define SHARE_LEAST  0.01
#define SHARE_CHANGE (1.0 / 128.0)
/* A key that was never seen is taken for one that is used so rarely. */
#define RATE_LEAST  (1.0 / 1024.0)
#define PERIOD_LONG (FS_NS_PER_S) /* a longer pause was idleness: it says nothing of the pace */
/* Before a layer was visited twice; only whether two keys are of one layer or of two matters then. */
#define PERIOD_UNKNOWN (FS_NS_PER_MS)

void fs_cache_victims_init(fs_cache *c)
{
    c->fast_share = SHARE_FIRST;
    c->stamp = 1;
    c->slow_power[0] = 1.0;
    for (uint32_t n = 1; n < FS_CACHE_POWERS; n++) c->slow_power[n] = c->slow_power[n - 1] * SLOW_DECAY;
}

static double slow_power(const fs_cache *c, uint64_t visits)
{
    return c->slow_power[visits < FS_CACHE_POWERS ? visits : FS_CACHE_POWERS - 1];
}

/* 2^-n, exactly. */
static double fast_power(uint64_t visits)
{
    return visits < 62 ? 1.0 / (double)(1ull << visits) : 0;
}

void fs_cache_visited(fs_cache *c, uint32_t layer, int64_t now_ns)
{
    fs_cache_layer *l = &c->layers[layer];
    int64_t pause = l->visits > 0 ? now_ns - l->last_ns : PERIOD_LONG;
    if (pause < PERIOD_LONG) l->period_ns = l->period_ns ? (7 * l->period_ns + pause) / 8 : pause;
    l->visits++;
    l->last_ns = now_ns;
    c->stamp++;
}

static double slow_now(const fs_cache *c, const fs_cache_key *k, const fs_cache_layer *l)
{
    double norm = 1.0 - slow_power(c, l->visits); /* makes up for a short history */
    return norm > 0 ? k->slow_rate * slow_power(c, l->visits - k->rate_visit) / norm : 0;
}

static double fast_now(const fs_cache_key *k, const fs_cache_layer *l)
{
    return k->fast_rate * fast_power(l->visits - k->rate_visit);
}

/* By what was foretold before the visit that is under way. */
static void learn_share(fs_cache *c, const fs_cache_key *k, const fs_cache_layer *l)
{
    double fast = c->fast_share * fast_now(k, l) / FAST_DECAY;
    double slow = (1.0 - c->fast_share) * slow_now(c, k, l) / SLOW_DECAY;
    if (k->rate_visit == l->visits || fast + slow <= 0)
        return; /* used in this visit already, or never before */
    c->fast_share += SHARE_CHANGE * (fast / (fast + slow) - c->fast_share);
    if (c->fast_share < SHARE_LEAST) c->fast_share = SHARE_LEAST;
}

/* Twice in one visit (the same expert for two routers' rows that came together) counts twice: it would have, a visit later. */
void fs_cache_used(fs_cache *c, uint32_t key)
{
    fs_cache_key *k = &c->keys[key];
    const fs_cache_layer *l = &c->layers[fs_cache_layer_of(c, key)];
    uint64_t passed = l->visits - k->rate_visit;
    learn_share(c, k, l);
    k->slow_rate = k->slow_rate * slow_power(c, passed) + (1.0 - SLOW_DECAY);
    k->fast_rate = k->fast_rate * fast_power(passed) + (1.0 - FAST_DECAY);
    k->rate_visit = l->visits;
    k->uses++;
    k->resident_uses++;
    k->last_use = ++c->clock;
    c->stamp++;
}

static double rate_now(const fs_cache *c, const fs_cache_key *k, const fs_cache_layer *l)
{
    double rate = c->fast_share * fast_now(k, l) + (1.0 - c->fast_share) * slow_now(c, k, l);
    return rate < RATE_LEAST ? RATE_LEAST : rate > 1.0 ? 1.0 : rate;
}

/* Of a key without an announcement: if another of its layer is announced, it is not used at that visit, but at the next at the
 * earliest; then as its rate has it. Waiting times of independent visits: 1 / rate of them on average. */
static int64_t estimate(const fs_cache *c, uint32_t key, int64_t now_ns)
{
    const fs_cache_key *k = &c->keys[key];
    const fs_cache_layer *l = &c->layers[fs_cache_layer_of(c, key)];
    int64_t period = l->period_ns ? l->period_ns : PERIOD_UNKNOWN;
    int64_t first = l->hinted_ns != FS_NEVER ? l->hinted_ns : l->last_ns;
    if (first < now_ns - period) first = now_ns - period;
    return first + period + (int64_t)((double)period * (1.0 / rate_now(c, k, l) - 1.0));
}

/* Kept while nothing changes: several victims of one moment are chosen from the same keys. */
static int64_t next_of(fs_cache *c, uint32_t key, int64_t now_ns)
{
    fs_cache_key *k = &c->keys[key];
    if (k->next_stamp == c->stamp) return k->next_ns;
    k->next_ns = fs_cache_next_use(c, key, now_ns);
    if (k->next_ns == FS_NEVER) k->next_ns = estimate(c, key, now_ns);
    k->next_stamp = c->stamp;
    return k->next_ns;
}

/* Who has the smallest is let go; of equals who was used longest ago, then the lowest key. */
static double worth(fs_cache *c, uint32_t key, int64_t now_ns, int64_t *next_ns)
{
    const fs_cache_key *k = &c->keys[key];
    *next_ns = FS_NEVER;
    switch (c->options.policy) {
    case FS_CACHE_LFU: return (double)k->uses;
    case FS_CACHE_LFRU: return (double)k->resident_uses / (double)(c->clock - k->last_use + 1);
    case FS_CACHE_LOOKAHEAD: *next_ns = next_of(c, key, now_ns); return -(double)*next_ns;
    default: return (double)k->last_use;
    }
}

static void look_ahead(fs_cache *c, int64_t now_ns)
{
    if (c->stamp_ns != now_ns) c->stamp++;
    c->stamp_ns = now_ns;
    if (c->looked_stamp == c->stamp) return;
    for (uint32_t i = 0; i < c->options.num_layers; i++) c->layers[i].hinted_ns = FS_NEVER;
    for (uint32_t key = 0; key < c->num_keys; key++) {
        int64_t next = fs_cache_next_use(c, key, now_ns);
        fs_cache_layer *l = &c->layers[fs_cache_layer_of(c, key)];
        if (next < l->hinted_ns) l->hinted_ns = next;
    }
    c->looked_stamp = c->stamp; /* after what was too old has gone */
}

/* The least worthy of what nobody claims and is not used at before_ns or sooner, and the bytes of all of those. */
static uint32_t least_worthy(fs_cache *c, int64_t before_ns, int64_t now_ns, uint64_t *bytes)
{
    uint32_t victim = FS_CACHE_NONE;
    double least = 0;
    *bytes = 0;
    if (c->options.policy == FS_CACHE_LOOKAHEAD) look_ahead(c, now_ns);
    for (uint32_t i = 0; i < c->num_resident; i++) {
        uint32_t key = c->resident[i];
        const fs_cache_key *k = &c->keys[key];
        int64_t next_ns;
        if (k->claims > 0) continue;
        double w = worth(c, key, now_ns, &next_ns);
        if (next_ns <= before_ns) continue;
        *bytes += k->bytes;
        bool less = victim == FS_CACHE_NONE || w < least;
        if (!less && w == least) {
            uint64_t other = c->keys[victim].last_use;
            less = k->last_use != other ? k->last_use < other : key < victim;
        }
        if (!less) continue;
        least = w;
        victim = key;
    }
    return victim;
}

uint32_t fs_cache_victim(fs_cache *c, uint64_t bytes, int64_t before_ns, int64_t now_ns)
{
    uint64_t most, held = c->stats.resident_bytes + c->stats.loading_bytes;
    uint32_t victim = least_worthy(c, before_ns, now_ns, &most);
    return held - most + bytes <= c->options.budget_bytes ? victim : FS_CACHE_NONE;
}

uint32_t fs_cache_any_victim(fs_cache *c, int64_t now_ns)
{
    uint64_t most;
    return least_worthy(c, INT64_MIN, now_ns, &most);
}
