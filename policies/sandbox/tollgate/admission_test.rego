package tollgate.admission_test

import data.tollgate.admission

request := {"route": "gpt-4o-mini", "choices": 1, "images": 0, "input_bytes": 100}

asked(change) := {"request": object.union(request, change)}

test_a_small_model_is_allowed if {
	admission.allow with input as asked({})
	admission.deny == set() with input as asked({})
}

test_a_large_model_is_not if {
	not admission.allow with input as asked({"route": "gpt-4o"})
	denied := {"the sandbox has the models gpt-4o-mini, text-embedding-3-small"}
	admission.deny == denied with input as asked({"route": "gpt-4o"})
}

test_the_longest_text_is_allowed if admission.deny == set() with input as asked({"input_bytes": 20000})

test_longer_ones_are_not if {
	admission.deny == {"the sandbox takes at most 20000 bytes of text"} with input as asked({"input_bytes": 20001})
}

test_images_are_denied if admission.deny == {"the sandbox looks at no images"} with input as asked({"images": 1})

test_two_answers_are_denied if {
	admission.deny == {"the sandbox gives one answer at a time"} with input as asked({"choices": 2})
}

test_answers_are_short_and_batches_are_its_own if {
	admission.obligations == {
		"models": ["gpt-4o-mini", "text-embedding-3-small"],
		"max_tokens": {"limit": 512, "over": "clamp"},
		"batch": "alone",
	}
}
