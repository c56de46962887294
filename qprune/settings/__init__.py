"""The sweep file: YAML in, validated and frozen settings out."""
