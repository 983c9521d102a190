/* Which instruction set is used: the machine's widest, capped by FORESIGHT_ISA. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compute/compute_int.h"

static void the_cap_lowers_and_never_raises(void **state)
{
    assert_int_equal(fs_isa_pick(FS_ISA_AVX512_VBMI, NULL), FS_ISA_AVX512_VBMI);
    assert_int_equal(fs_isa_pick(FS_ISA_AVX512_VBMI, "avx512"), FS_ISA_AVX512);
    assert_int_equal(fs_isa_pick(FS_ISA_AVX512_VBMI, "avx2"), FS_ISA_AVX2);
    assert_int_equal(fs_isa_pick(FS_ISA_AVX512_VBMI, "scalar"), FS_ISA_SCALAR);
    assert_int_equal(fs_isa_pick(FS_ISA_AVX2, "avx512"), FS_ISA_AVX2);
    assert_int_equal(fs_isa_pick(FS_ISA_SCALAR, "avx512_vbmi"), FS_ISA_SCALAR);
    assert_int_equal(fs_isa_pick(FS_ISA_AVX2, "mmx"), FS_ISA_AVX2);
}

static void an_unknown_cap_is_refused_by_name(void **state)
{
    fs_detail detail = {0};
    setenv("FORESIGHT_ISA", "avx1024", 1);
    assert_int_equal(fs_isa_check(&detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "FORESIGHT_ISA"));
    assert_non_null(strstr(detail.text, "avx1024"));
    setenv("FORESIGHT_ISA", "avx2", 1);
    assert_int_equal(fs_isa_check(&detail), FS_OK);
    unsetenv("FORESIGHT_ISA");
    assert_int_equal(fs_isa_check(&detail), FS_OK);
}

static void names_are_the_words_of_the_cap(void **state)
{
    for (int isa = FS_ISA_SCALAR; isa <= FS_ISA_AVX512_VBMI; isa++)
        assert_int_equal(fs_isa_pick(FS_ISA_AVX512_VBMI, fs_isa_name((fs_isa)isa)), isa);
    assert_string_equal(fs_isa_name((fs_isa)99), "unknown");
}

static void the_best_table_is_usable(void **state)
{
    assert_true(fs_kernels_best()->usable());
    assert_true(fs_kernels_scalar.usable());
    if (fs_kernels_avx512.usable()) assert_true(fs_kernels_avx2.usable());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cap_lowers_and_never_raises),
        cmocka_unit_test(an_unknown_cap_is_refused_by_name),
        cmocka_unit_test(names_are_the_words_of_the_cap),
        cmocka_unit_test(the_best_table_is_usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
