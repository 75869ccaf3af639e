package tollgate.admission_test

import data.tollgate.admission

asked(surface, input_bytes) := {"request": {"surface": surface, "input_bytes": input_bytes}}

test_a_run_is_allowed if {
	admission.allow with input as asked("runs", 300)
	admission.deny == set() with input as asked("runs", 300)
}

test_other_surfaces_are_not if {
	not admission.allow with input as asked("chat", 300)
	admission.deny == {"this template is for runs only"} with input as asked("chat", 300)
}

test_one_that_does_not_say_what_it_is_is_not if {
	not admission.allow with input as {"request": {}}
	admission.deny == {"this template is for runs only"} with input as {"request": {}}
}

test_the_longest_run_is_allowed if admission.deny == set() with input as asked("runs", 200000)

test_a_longer_one_is_denied if {
	admission.deny == {"at most 200000 bytes of text in one run"} with input as asked("runs", 200001)
}

test_nobody_else_is_in_the_batch if admission.obligations.batch == "alone"

test_answers_are_used_again_for_ten_minutes if admission.obligations.cache == {"ttl_seconds": 600}

test_what_is_kept_is_kept_for_a_week if admission.obligations.retention_days == 7
