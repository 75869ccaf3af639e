# Support triage: customers' messages may only be sorted here, and what identifies people in them is taken out first.
package tollgate.admission

default allow := false

allow if input.request.surface == "runs"

deny contains "this template is for runs only" if {
	not input.request.surface == "runs"
}

deny contains "at most 100000 bytes of text in one run" if {
	input.request.input_bytes > 100000
}

obligations := {
	"redact": [
		{"name": "email"},
		{"name": "phone"},
		{"name": "card"},
		{"name": "iban"},
	],
	"cache": {"ttl_seconds": 3600},
	"retention_days": 30,
}
