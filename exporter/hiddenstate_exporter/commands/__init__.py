"""The commands of the exporter: `hiddenstate train`, `export`, `import` and `evaluate`."""
