/* common/model/regex.c: Oniguruma's regular expressions, translated to PCRE2's where both mean the same
 * text. The two agree on most of what tokenizers use. They differ in \s (Oniguruma: White_Space), \w, \h,
 * \v, in `$` and `^` (always at lines), in scripts, in {n}+ and {,n}, and in classes inside classes; what
 * cannot be said in PCRE2 is refused, not guessed. */
#include <stdio.h>
#include <string.h>

#include "model/tokenizer_int.h"

#define MATCH_LIMIT    20000000u /* steps for one piece: a prompt cannot make a bad pattern run for minutes */
#define HEAP_LIMIT_KIB (1u << 20)

typedef struct {
    const char *pattern, *at;
    bool in_class;
    fs_buffer out;
    fs_detail *detail;
} translator;

static fs_status refuse(const translator *t, const char *what)
{
    return fs_fail(t->detail, FS_UNSUPPORTED, "regex '%.200s', character %zu: %s is not supported",
                   t->pattern, (size_t)(t->at - t->pattern), what);
}

static void put(translator *t, const char *text)
{
    fs_buffer_append(&t->out, text, strlen(text));
}

/* n characters as they are. */
static void keep(translator *t, size_t n)
{
    fs_buffer_append(&t->out, t->at, n);
    t->at += n;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \x{...}, and \p{L} or \p{Lu}, as they are. */
static fs_status keep_braced(translator *t)
{
    const char *end = t->at[2] == '{' ? strchr(t->at, '}') : NULL;
    if (!end) return refuse(t, "an escape without {}");
    keep(t, (size_t)(end + 1 - t->at));
    return FS_OK;
}

/* A name longer than a general category's is a script's, which PCRE2 would widen to its extensions. */
static fs_status translate_property(translator *t)
{
    const char *name = t->at + 3, *end = t->at[2] == '{' ? strchr(t->at, '}') : NULL;
    if (!end || end - name <= 2) return keep_braced(t);
    if (strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_") != (size_t)(end - name))
        return refuse(t, "this property");
    fs_buffer_append(&t->out, t->at, 3);
    put(t, "sc:");
    t->at = name;
    keep(t, (size_t)(end + 1 - name));
    return FS_OK;
}

static fs_status translate_hex(translator *t)
{
    if (t->at[2] == '{') return keep_braced(t);
    /* From 80 on Oniguruma means a byte of UTF-8, PCRE2 a character. */
    if (t->at[2] < '0' || t->at[2] > '7' || !is_hex(t->at[3]))
        return refuse(t, "\\x without two digits below 80");
    keep(t, 4);
    return FS_OK;
}

static fs_status translate_unicode(translator *t)
{
    char text[16];
    for (int i = 2; i < 6; i++)
        if (!is_hex(t->at[i])) return refuse(t, "\\u without four digits");
    snprintf(text, sizeof(text), "\\x{%.4s}", t->at + 2);
    put(t, text);
    t->at += 6;
    return FS_OK;
}

/* The last six are no word characters by Unicode, but to Oniguruma they are. */
static fs_status translate_word(translator *t)
{
    static const char word[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe";
    bool negated = t->at[1] == 'W';
    if (negated && t->in_class) return refuse(t, "\\W in a class");
    if (!t->in_class) put(t, negated ? "[^" : "[");
    put(t, word);
    if (!t->in_class) put(t, "]");
    t->at += 2;
    return FS_OK;
}

static fs_status translate_escape(translator *t)
{
    char c = t->at[1];
    const char *instead = NULL;
    switch (c) {
    case '\0': return refuse(t, "a lone backslash");
    case 'p':
    case 'P': return translate_property(t);
    case 'x': return translate_hex(t);
    case 'u': return translate_unicode(t);
    case 'w':
    case 'W': return translate_word(t);
    case 's': instead = "\\p{White_Space}"; break;
    case 'S': instead = "\\P{White_Space}"; break;
    case 'v': instead = "\\x0b"; break;
    case 'A':
    case 'z':
        if (t->in_class) return refuse(t, "an anchor in a class");
        keep(t, 2);
        return FS_OK;
    default:
        if (!strchr("dDrntf", c) &&
            ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
            return refuse(t, "this escape");
        keep(t, 2);
        return FS_OK;
    }
    put(t, instead);
    t->at += 2;
    return FS_OK;
}

/* (?: (?= (?! (?> (?<= (?<! and (?i: (?-i: (?i). Of the other options m and x mean something else, s does
 * not exist. */
static fs_status translate_group(translator *t)
{
    if (t->at[1] == '*') return refuse(t, "(*");
    if (t->at[1] != '?') return keep(t, 1), FS_OK;
    if (t->at[2] == '<' && (t->at[3] == '=' || t->at[3] == '!')) return keep(t, 4), FS_OK;
    if (t->at[2] != '\0' && strchr(":=!>", t->at[2])) return keep(t, 3), FS_OK;
    size_t n = 2 + strspn(t->at + 2, "i-");
    if (n == 2 || (t->at[n] != ':' && t->at[n] != ')')) return refuse(t, "this group");
    keep(t, n + 1);
    return FS_OK;
}

/* {n} {n,} {n,m}; anything else in braces is plain text to both. */
static fs_status translate_brace(translator *t)
{
    size_t digits = strspn(t->at + 1, "0123456789"), n = 1 + digits;
    bool range = t->at[n] == ',';
    if (range) n += 1 + strspn(t->at + n + 1, "0123456789");
    if (t->at[n] != '}') return keep(t, 1), FS_OK;
    if (digits == 0 && range) return refuse(t, "{,n}");
    n++;
    if (t->at[n] == '+' || (t->at[n] == '?' && !range)) return refuse(t, "a repeated {n}");
    keep(t, n);
    return FS_OK;
}

static fs_status translate_bracket(translator *t)
{
    if (!t->in_class) {
        t->in_class = true;
        keep(t, t->at[1] == '^' ? 2 : 1);
        if (*t->at == ']') return refuse(t, "a class that begins with ]");
        return FS_OK;
    }
    /* Both have [:punct:] and the like, but with different characters. */
    return refuse(t, "a class in a class");
}

static fs_status translate_one(translator *t)
{
    char c = *t->at;
    if (c == '\\') return translate_escape(t);
    if (c == '[') return translate_bracket(t);
    if (t->in_class && c == '&' && t->at[1] == '&') return refuse(t, "&&");
    if (!t->in_class && c == '(') return translate_group(t);
    if (!t->in_class && c == '{') return translate_brace(t);
    if (c == ']') t->in_class = false;
    keep(t, 1);
    return FS_OK;
}

static fs_status translate(const char *pattern, fs_buffer *out, fs_detail *detail)
{
    translator t = {pattern, pattern, false, {0}, detail};
    fs_status st = FS_OK;
    while (st == FS_OK && *t.at) st = translate_one(&t);
    if (st == FS_OK && t.out.failed) st = fs_fail(detail, FS_NO_MEMORY, "no memory for a regex");
    if (st != FS_OK) return fs_buffer_free(&t.out), st;
    *out = t.out;
    return FS_OK;
}

/* No JIT: it wants pages that are both writable and executable, which hardened units forbid, and it has a
 * stack of its own to run out of. */
static fs_status compile(const char *source, fs_buffer text, uint32_t options, pcre2_code **out,
                         fs_detail *detail)
{
    int error = 0;
    PCRE2_SIZE at = 0;
    PCRE2_UCHAR message[128] = "";
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return fs_fail(detail, FS_NO_MEMORY, "no memory for a regex");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    const char *pattern = text.data ? (const char *)text.data : "";
    *out = pcre2_compile((PCRE2_SPTR)pattern, text.size, options, &error, &at, context);
    pcre2_compile_context_free(context);
    if (*out) return FS_OK;
    if (error == PCRE2_ERROR_NOMEMORY) return fs_fail(detail, FS_NO_MEMORY, "no memory for a regex");
    pcre2_get_error_message(error, message, sizeof(message));
    return fs_fail(detail, FS_UNSUPPORTED, "regex '%.200s': %s", source, (const char *)message);
}

fs_status fs_regex_compile(const char *pattern, bool literal, pcre2_code **out, fs_detail *detail)
{
    fs_buffer text = {0};
    pcre2_code *code = NULL;
    fs_status st = FS_OK;
    if (literal)
        text = (fs_buffer){(uint8_t *)pattern, strlen(pattern), 0, false};
    else
        st = translate(pattern, &text, detail);
    if (st != FS_OK) return st;
    uint32_t options = literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE;
    st = compile(pattern, text, options | PCRE2_UTF, &code, detail);
    if (!literal) fs_buffer_free(&text);
    if (st == FS_OK) *out = code;
    return st;
}

fs_status fs_regex_scratch_init(fs_regex_scratch *scratch)
{
    scratch->match = pcre2_match_data_create(1, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    if (!scratch->match || !scratch->context) {
        fs_regex_scratch_fini(scratch);
        return FS_NO_MEMORY;
    }
    pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
    pcre2_set_heap_limit(scratch->context, HEAP_LIMIT_KIB);
    return FS_OK;
}

void fs_regex_scratch_fini(fs_regex_scratch *scratch)
{
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    *scratch = (fs_regex_scratch){0};
}

fs_status fs_regex_find(const pcre2_code *regex, const fs_regex_scratch *scratch, const char *text,
                        size_t size, size_t from, size_t *begin, size_t *end)
{
    /* NO_UTF_CHECK: the text was checked once; a check at every call would make a long text quadratic. */
    int rc = pcre2_match(regex, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, scratch->match,
                         scratch->context);
    if (rc == PCRE2_ERROR_NOMATCH) return FS_NOT_FOUND;
    if (rc == PCRE2_ERROR_NOMEMORY) return FS_NO_MEMORY;
    if (rc < 0) return FS_INVALID;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(scratch->match);
    *begin = range[0];
    *end = range[1];
    return FS_OK;
}
