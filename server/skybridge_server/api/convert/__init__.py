"""Messages of the API to and from the domain's values, one noun a file.

Reading a message fills in defaults and notes what no value of the domain can hold, such as unknown
enum numbers; whether the values are sensible is for `services/rules.py`.
"""
