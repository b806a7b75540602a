"""Write the predictions out, to where others read them."""


def register(predictions, outlet):
    return outlet.write(predictions)
