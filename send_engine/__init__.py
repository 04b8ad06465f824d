"""Send Engine: turns one send job into a mail for every confirmed recipient and can say what became of each.

`composing` makes the mails, `esp` hands them to the provider. Who may be mailed is Member Center's to say.
"""
