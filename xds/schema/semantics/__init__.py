"""What Envoy checks beyond types and validation rules, as far as it is cheap to know without an Envoy."""
