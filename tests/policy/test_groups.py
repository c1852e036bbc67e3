import pytest

from idgrpo.errors import UsageError
from idgrpo.policy.groups import check_geometry, groups_of_update, nearest_num_groups, share_of_rank


def test_epoch_uses_each_case_once_and_epochs_differ():
    cases = [g.case for update in range(4) for g in groups_of_update(12, 3, 7, update)]
    assert sorted(cases) == list(range(12))
    second = [g.case for update in range(4, 8) for g in groups_of_update(12, 3, 7, update)]
    assert sorted(second) == list(range(12)) and second != cases


def test_pure_function_of_seed_and_update():
    assert groups_of_update(20, 4, 1, 9) == groups_of_update(20, 4, 1, 9)
    assert groups_of_update(20, 4, 1, 9) != groups_of_update(20, 4, 2, 9)


def test_no_case_twice_in_an_update_when_cases_do_not_divide():
    for update in range(30):
        cases = [g.case for g in groups_of_update(7, 3, 0, update)]
        assert len(set(cases)) == 3


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_ranks_share_the_samples_of_an_update_equally(world_size):
    rows = [(group.slot, member) for group in groups_of_update(40, 8, 3, 5) for member in range(4)]
    shares = [share_of_rank(rows, rank, world_size) for rank in range(world_size)]
    assert [row for share in shares for row in share] == rows
    assert {len(share) for share in shares} == {32 // world_size}


def test_impossible_geometry_is_refused_with_the_arithmetic():
    with pytest.raises(UsageError, match=r"need 6 different cases, but there are 4") as error:
        check_geometry(4, 6, 8, 1)
    assert "group.num_cases=4" in error.value.fix
    with pytest.raises(UsageError, match=r"6 groups of 3 samples .* \(18 % 4 = 2\)") as error:
        check_geometry(10, 6, 3, 4)
    assert "4 or 8" in error.value.fix
    check_geometry(10, 6, 3, 3)
    check_geometry(16, 16, 8, 64)  # a group lies on four ranks


def test_nearest_numbers_of_groups_divide():
    assert nearest_num_groups(16, 8, 64) == (16, 16)
    assert nearest_num_groups(16, 8, 48) == (12, 18)
    assert nearest_num_groups(2, 2, 64) == (0, 32)
