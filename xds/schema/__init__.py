"""WHAT Envoy's API allows: the schema, its rules, the door a resource enters by. Pure, but for one packaged file."""
