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

test_the_longest_run_is_allowed if admission.deny == set() with input as asked("runs", 100000)

test_a_longer_one_is_denied if {
	admission.deny == {"at most 100000 bytes of text in one run"} with input as asked("runs", 100001)
}

test_people_are_redacted if {
	{pattern.name | some pattern in admission.obligations.redact} == {"email", "phone", "card", "iban"}
}

test_answers_are_used_again_for_an_hour if admission.obligations.cache == {"ttl_seconds": 3600}

test_what_is_kept_is_kept_for_a_month if admission.obligations.retention_days == 30
