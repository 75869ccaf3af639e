package tollgate.admission_test

import data.tollgate.admission

denied := {"the provider of this model does not work in the EU; choose a model that does"}

test_a_provider_in_the_eu_is_allowed if {
	admission.allow with input as {"request": {"region": "eu"}}
	admission.deny == set() with input as {"request": {"region": "eu"}}
}

test_one_elsewhere_is_not if {
	not admission.allow with input as {"request": {"region": "us"}}
	admission.deny == denied with input as {"request": {"region": "us"}}
}

test_one_that_does_not_say_where_is_not if {
	not admission.allow with input as {"request": {}}
	admission.deny == denied with input as {"request": {}}
}

test_fallbacks_stay_in_the_eu_too if admission.obligations.regions == ["eu"]

test_accounts_are_redacted if {
	{pattern.name | some pattern in admission.obligations.redact} == {"email", "phone", "iban", "card"}
}

test_nothing_is_kept if {
	admission.obligations.cache == {"ttl_seconds": 0}
	admission.obligations.retention_days == 0
}
