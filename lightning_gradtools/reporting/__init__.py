"""What people read: scalars and figures in their loggers, findings as lines, tables and cards."""
