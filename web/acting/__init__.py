"""Acting on X-rays from the page: on selected ones, and the full picture of one."""
